"""All that changes while a net is trained, made from a configuration and kept in a checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from skreg.regularizer import SmoothKernelRegularizer
from skreg.sharding import is_distributed
from skreg.training.config import TrainConfig
from skreg.training.distributed import (
    Group,
    gather_states,
    replicate,
    scatter_states,
    shard,
    synchronise_batch_norm,
)
from skreg.training.optimization import build_optimizer, build_schedule
from skreg.training.run import build_model, check_weights


@dataclass
class State:
    """All that changes while a net is trained."""

    group: Group
    model: nn.Module
    network: nn.Module  # what a training step calls: the model, or the model in a wrapper that averages gradients
    regularizer: SmoothKernelRegularizer
    optimizer: Optimizer
    schedule: LRScheduler
    order: torch.Generator  # of the training images
    noise: torch.Generator  # of the attacks' random starts
    steps_per_epoch: int
    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -math.inf

    @classmethod
    def start(cls, config: TrainConfig, steps_per_epoch: int, group: Group) -> State:
        model = build_model(config).to(config.device).to(memory_format=config.memory_format)
        network = model
        if group.size > 1:
            network = model = synchronise_batch_norm(model, config.device)
        if config.compile:
            model.compile()
        if group.size > 1 and config.fsdp:
            shard(model, config.device, group)
        elif group.size > 1:
            network = replicate(model, config.device)
        optimizer = build_optimizer(
            config.optimizer, config.optimizer_options, config.learning_rate, model.parameters()
        )
        schedule = build_schedule(
            config.schedule,
            config.schedule_options,
            optimizer,
            epochs=config.epochs,
            steps_per_epoch=steps_per_epoch,
        )
        regularizer = SmoothKernelRegularizer(
            model,
            config.signed_strength,
            include=config.include,
            exclude=config.exclude,
            **config.penalty_options,
        )
        order = torch.Generator().manual_seed(config.seed)
        noise = torch.Generator(config.device).manual_seed(config.seed)
        return cls(group, model, network, regularizer, optimizer, schedule, order, noise, steps_per_epoch)

    @property
    def sharded(self) -> bool:
        return any(is_distributed(parameter) for parameter in self.model.parameters())

    def as_dict(self) -> dict[str, Any]:
        """The state as one process has it, whole on rank 0. Where it is sharded all processes must call this."""
        if self.sharded:
            model, optimizer = gather_states(self.model, self.optimizer)
        else:
            model, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        return {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "model": model,
            "optimizer": optimizer,
            "schedule": self.schedule.state_dict(),
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
            "cpu_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.noise.device) if self.noise.device.type == "cuda" else None,
        }

    def load(self, checkpoint: dict[str, Any], file: Path) -> None:
        check_weights(self.model, checkpoint["model"], file)
        if self.sharded:
            scatter_states(self.model, self.optimizer, checkpoint["model"], checkpoint["optimizer"])
        else:
            self.model.load_state_dict(checkpoint["model"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.schedule.load_state_dict(checkpoint["schedule"])
        self.order.set_state(checkpoint["order"])
        self.noise.set_state(checkpoint["noise"])
        torch.set_rng_state(checkpoint["cpu_rng"])
        if checkpoint["cuda_rng"] is not None:
            torch.cuda.set_rng_state(checkpoint["cuda_rng"], self.noise.device)
        self.epoch = checkpoint["epoch"]
        self.best_epoch = checkpoint["best_epoch"]
        self.best_score = checkpoint["best_score"]
