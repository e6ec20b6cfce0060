"""The training loop, in plain PyTorch."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from skreg.attacks import PGD
from skreg.data import batches, load, split_validation
from skreg.losses import LOSSES, LossOutput
from skreg.regularizer import SmoothKernelRegularizer
from skreg.training.config import TrainConfig
from skreg.training.interrupt import interrupt_between_steps
from skreg.training.optimization import build_optimizer, build_schedule
from skreg.training.progress import Progress
from skreg.training.run import (
    LAST_FILE,
    Run,
    build_model,
    check_free,
    create_run,
    cut_log,
    load_weights,
    read_checkpoint,
    reopen_run,
    write_best,
    write_checkpoint,
    write_config,
    write_log,
)

# Reading a loss makes a GPU wait, so that non-finite ones are looked for once in so many steps there.
_STEPS_BETWEEN_CHECKS = 50

_Examples = tuple[Tensor, Tensor]  # images uint8 N x C x H x W and labels int64 N, on the device


def train(
    config: TrainConfig,
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Train one net and keep everything about it in a run folder.

    The folder holds config.json (choices, versions, device, command, commit), log.jsonl (a record an epoch),
    best.safetensors (the weights with the best validation score) and last.pt (all that is needed to go on).
    The score is the validation accuracy for V and the validation accuracy under PGD for T, A and L; of equal
    epochs the first counts. A run can be resumed however it ended: it goes on after its last finished epoch,
    and on the CPU, with as many threads, it ends bit for bit as if it had never stopped.

    A record holds `epoch`, from 1; `loss` = `data_loss` + `penalty`, means over the training images of the
    epoch; `train_accuracy` on the images whose logits the loss returns (adversarial ones for A, else clean);
    `validation_loss` and `validation_accuracy` on clean images; `validation_pgd_accuracy` on
    `validation_attack_images` of them, evenly spread; `score` and `best`, whether it is the best so far;
    `layers`, for each conv weight its `name`, `roughness` (D / E, paper sec. 3) and `norm` (l2);
    `learning_rate` of the first step; `images_per_second` in training; `seconds`, validation included.

    Args:
        config: what to train.
        output: the run folder, made when it is missing; must hold no run, or the one to resume.
        resume: go on with the run in `output`. Only `epochs` may have grown and `data_root` may differ. A
            finished run is returned at once.
        progress: what to tell on the way; nothing by default.

    Raises:
        RunError: the run folder cannot be used or written; says why and what to do.
        FloatingPointError: the loss became infinite or NaN; names epoch and step. The files stay.
        KeyboardInterrupt: passed on, with a message that says how to go on.
        ValueError: the configuration does not fit the net or the data.
        DatasetNotFoundError, DatasetFormatError: see `skreg.data.load`.
    """
    config, folder = config.resolved(), Path(output)
    if resume:
        run = reopen_run(config, folder)
        checkpoint = read_checkpoint(folder / LAST_FILE)
        cut_log(run, checkpoint["epoch"])
        if _is_finished(config, checkpoint["epoch"], checkpoint["best_epoch"]):
            return run
    else:
        check_free(folder)
    train_set, validation_set = _load_examples(config)

    # Weights and dropout draw from the global generators: the caller gets these back as they were.
    device = torch.device(config.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), _determinism(config.deterministic):
        torch.manual_seed(config.seed)
        state = _State.start(config, steps_per_epoch=math.ceil(len(train_set[1]) / config.batch_size))
        if resume:
            state.load(checkpoint, folder / LAST_FILE)
            write_config(run)
        else:
            run = create_run(config, folder)
            # Before the first epoch, so that a folder that cannot be written to is found out now.
            write_checkpoint(run, state.as_dict())
        with interrupt_between_steps() as check_interrupt:
            _run_epochs(run, state, train_set, validation_set, progress or Progress(), check_interrupt)
    return run


@dataclass
class _State:
    """All that changes while a net is trained."""

    model: nn.Module
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
    def start(cls, config: TrainConfig, steps_per_epoch: int) -> _State:
        memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        model = build_model(config).to(config.device).to(memory_format=memory_format)
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
        return cls(model, regularizer, optimizer, schedule, order, noise, steps_per_epoch)

    def as_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
            "cpu_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.noise.device) if self.noise.device.type == "cuda" else None,
        }

    def load(self, checkpoint: dict[str, Any], file: Path) -> None:
        load_weights(self.model, checkpoint["model"], file)
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


def _run_epochs(
    run: Run,
    state: _State,
    train_set: _Examples,
    validation_set: _Examples,
    progress: Progress,
    check_interrupt: Callable[[], None],
) -> None:
    config = run.config
    progress.begin(epoch=state.epoch, epochs=config.epochs, steps=state.steps_per_epoch)
    try:
        while not _is_finished(config, state.epoch, state.best_epoch):
            start = time.perf_counter()
            learning_rate = float(state.optimizer.param_groups[0]["lr"])
            trained = _train_epoch(config, state, train_set, progress, check_interrupt)
            validated = _validate(config, state.model, validation_set)
            check_interrupt()
            score = validated["validation_accuracy" if config.loss == "V" else "validation_pgd_accuracy"]
            state.epoch += 1
            best = score > state.best_score
            if best:
                state.best_score, state.best_epoch = score, state.epoch
                write_best(run, state.model, state.epoch, score)
            layers = [
                {"name": layer.name, "roughness": layer.roughness, "norm": math.sqrt(layer.energy)}
                for layer in state.regularizer.statistics()
            ]
            record = {
                "epoch": state.epoch,
                **trained,
                **validated,
                "score": score,
                "best": best,
                "layers": layers,
                "learning_rate": learning_rate,
                "seconds": time.perf_counter() - start,
            }
            run.log.append(record)
            write_log(run)
            # Last, because a resumed run believes this file: what is newer in the others is made again.
            write_checkpoint(run, state.as_dict())
            progress.epoch(record)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{run.path} holds {state.epoch} of {config.epochs} epochs; go on with --resume (resume=True)"
        ) from None
    finally:
        progress.end()


def _train_epoch(
    config: TrainConfig,
    state: _State,
    train_set: _Examples,
    progress: Progress,
    check_interrupt: Callable[[], None],
) -> dict[str, float]:
    model, device = state.model.train(), torch.device(config.device)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    loss_function = LOSSES[config.loss]
    attack = PGD(eps=_eps(config), steps=config.attack_steps, step_size=config.step_size)
    no_penalty = torch.zeros((), device=device)
    epoch, meter = state.epoch + 1, _EpochMeter(state.steps_per_epoch, device)

    for step, (images, labels) in enumerate(
        batches(*train_set, config.batch_size, shuffle=True, generator=state.order), start=1
    ):
        images = images.contiguous(memory_format=memory_format)
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                output = loss_function(model, images, labels, attack=attack, gamma=config.gamma, generator=state.noise)
            penalty = state.regularizer() if config.signed_strength else no_penalty
        except FloatingPointError as error:
            raise FloatingPointError(f"epoch {epoch}, step {step}: {error}") from error
        meter.add(output, penalty, labels)
        if device.type == "cpu" or step % _STEPS_BETWEEN_CHECKS == 0:
            meter.check_finite(epoch)

        state.optimizer.zero_grad()
        torch.autograd.backward(output.loss + penalty)
        state.optimizer.step()
        state.schedule.step()
        progress.step(epoch, step, meter)
        check_interrupt()

    meter.check_finite(epoch)
    return meter.record()


def _validate(config: TrainConfig, model: nn.Module, validation_set: _Examples) -> dict[str, float]:
    """Loss and accuracy on clean images, accuracy under PGD on some; always in full precision."""
    model.eval()
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    images, labels = validation_set
    count = min(config.validation_attack_images, len(labels))
    # Evenly spread, because some data sets are sorted by class.
    chosen = torch.arange(count, device=labels.device) * len(labels) // count
    attack = PGD(eps=_eps(config), steps=config.validation_attack_steps)
    # The same random starts after every epoch: scores differ by the net alone.
    noise = torch.Generator(config.device).manual_seed(config.seed)

    sums = torch.zeros(3, device=config.device)  # loss, correct, correct under PGD
    with torch.no_grad():
        for batch, target in batches(images, labels, config.batch_size, shuffle=False):
            logits = model(batch.contiguous(memory_format=memory_format)).float()
            sums[0] += F.cross_entropy(logits, target, reduction="sum")
            sums[1] += (logits.argmax(1) == target).sum()
        for batch, target in batches(images[chosen], labels[chosen], config.batch_size, shuffle=False):
            adversarial = attack(model, batch.contiguous(memory_format=memory_format), target, generator=noise)
            sums[2] += (model(adversarial).argmax(1) == target).sum()
    loss, correct, correct_under_pgd = sums.tolist()
    return {
        "validation_loss": loss / len(labels),
        "validation_accuracy": correct / len(labels),
        "validation_pgd_accuracy": correct_under_pgd / count,
    }


class _EpochMeter:
    """The numbers of each step of an epoch, kept on the device until somebody reads them."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self._rows = torch.zeros(steps, 3, device=device)  # summed over the batch: data loss, penalty, correct
        self._steps = 0
        self._images = 0
        self._start = time.perf_counter()

    def add(self, output: LossOutput, penalty: Tensor, labels: Tensor) -> None:
        correct = (output.logits.argmax(1) == labels).sum()
        losses = torch.stack((output.loss.detach(), penalty.detach())) * len(labels)
        self._rows[self._steps, :2] = losses
        self._rows[self._steps, 2] = correct
        self._steps += 1
        self._images += len(labels)

    def check_finite(self, epoch: int) -> None:
        bad = (~self._rows.isfinite()).any(1).nonzero()
        if len(bad):
            step = int(bad[0]) + 1
            data_loss, penalty = self._rows[step - 1, :2].tolist()
            raise FloatingPointError(
                f"epoch {epoch}, step {step}: the loss is not finite (data loss {data_loss}, penalty "
                f"{penalty}); lower the learning rate or the strength"
            )

    @property
    def loss(self) -> float:
        return float(self._rows[:, :2].sum()) / self._images

    @property
    def images_per_second(self) -> float:
        return self._images / (time.perf_counter() - self._start)

    def record(self) -> dict[str, float]:
        data_loss, penalty, correct = (self._rows.double().sum(0) / self._images).tolist()
        return {
            "loss": data_loss + penalty,
            "data_loss": data_loss,
            "penalty": penalty,
            "train_accuracy": correct,
            "images_per_second": self.images_per_second,
        }


def _is_finished(config: TrainConfig, epoch: int, best_epoch: int) -> bool:
    out_of_patience = config.patience is not None and epoch - best_epoch >= config.patience
    return epoch >= config.epochs or out_of_patience


def _load_examples(config: TrainConfig) -> tuple[_Examples, _Examples]:
    images, labels = load(config.data, "train", config.data_root, config.limit)
    kept, held_out = split_validation(images, labels, config.validation_fraction, config.seed)
    return (
        (kept[0].to(config.device), kept[1].to(config.device)),
        (held_out[0].to(config.device), held_out[1].to(config.device)),
    )


def _eps(config: TrainConfig) -> float:
    assert config.eps is not None, "the configuration is resolved"
    return config.eps


@contextlib.contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        # Without it cuBLAS refuses to be deterministic; it is read when cuBLAS starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
