"""Optimizers and learning-rate schedules by name, with their options checked before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from skreg.sharding import is_distributed

_SHORT_NAMES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}
_FUSED_ON_CPU = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)

# Name -> (options that must be given, options that may be given).
SCHEDULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "constant": ((), ()),
    "cosine": ((), ("eta_min",)),
    "step": (("step_size",), ("gamma",)),
    "multistep": (("milestones",), ("gamma",)),
    "onecycle": (
        (),
        (
            "pct_start",
            "anneal_strategy",
            "cycle_momentum",
            "base_momentum",
            "max_momentum",
            "div_factor",
            "final_div_factor",
            "three_phase",
        ),
    ),
}
# The rate of these depends on the total number of epochs, so a finished run cannot be made longer.
SCHEDULES_OF_FIXED_LENGTH = ("cosine", "onecycle")


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """Return the class of `torch.optim` called `name`: `adam`, `adamw`, `sgd`, or any exact class name.

    Raises:
        ValueError: when there is no such optimizer, or it cannot be used in a plain loop (LBFGS needs a
            closure, SparseAdam needs sparse gradients).
    """
    found = getattr(torch.optim, _SHORT_NAMES.get(name, name), None)
    if not (inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)) or found is torch.optim.Optimizer:
        raise ValueError(
            f"optimizer: expected {', '.join(_SHORT_NAMES)} or the exact name of a class in torch.optim; found {name!r}"
        )
    if found in (torch.optim.LBFGS, torch.optim.SparseAdam):
        raise ValueError(
            f"optimizer: {name!r} cannot be used here, it needs "
            f"{'a closure' if found is torch.optim.LBFGS else 'sparse gradients'}; choose another optimizer"
        )
    return found


def check_optimizer(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError when optimizer `name` does not exist, or does not take these `options`."""
    parameters = inspect.signature(optimizer_class(name)).parameters
    known = [option for option in parameters if option not in ("params", "lr", "named_parameters")]
    if "lr" in options:
        raise ValueError("optimizer_options: lr is set by learning_rate")
    for option in options:
        if option not in known:
            raise ValueError(f"optimizer_options: {name} has no option {option!r}; it has {', '.join(known)}")
    try:
        build_optimizer(name, options, 1e-3, [nn.Parameter(torch.zeros(2, 2))])
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer_options: {name} refuses {dict(options)}: {error}") from error


def check_schedule(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError when schedule `name` does not exist, or does not take these `options`."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {', '.join(SCHEDULES)}; found {name!r}")
    required, optional = SCHEDULES[name]
    for option in required:
        if option not in options:
            raise ValueError(f"schedule_options: {name} needs {option} (in epochs)")
    for option in options:
        if option not in required + optional:
            known = ", ".join(required + optional) or "none"
            raise ValueError(f"schedule_options: {name} has no option {option!r}; its options: {known}")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3, momentum=0.9)
    try:
        build_schedule(name, options, optimizer, epochs=2, steps_per_epoch=2)
    except (TypeError, ValueError) as error:
        raise ValueError(f"schedule_options: {name} refuses {dict(options)}: {error}") from error


def build_optimizer(
    name: str, options: Mapping[str, Any], learning_rate: float, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Make the optimizer; `options` are the keyword arguments of its class, `learning_rate` is its `lr`.

    On the CPU, Adam, AdamW and SGD update each weight in one pass over memory (`fused`) where `options` say nothing
    else; weights that are sharded excepted.
    """
    make: Any = optimizer_class(name)
    weights = list(parameters)
    if (
        make in _FUSED_ON_CPU
        and not {"fused", "foreach", "differentiable"} & options.keys()
        and all(weight.device.type == "cpu" and weight.is_floating_point() for weight in weights)
        and not any(is_distributed(weight) for weight in weights)
    ):
        options = {**options, "fused": True}
    optimizer: torch.optim.Optimizer = make(weights, lr=learning_rate, **options)
    return optimizer


def build_schedule(
    name: str,
    options: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
) -> LRScheduler:
    """Make the schedule, to be stepped after every optimizer step.

    The options are those of the class in `torch.optim.lr_scheduler`, but `step_size` and `milestones` count
    epochs.
    """
    keywords = dict(options)
    if name == "constant":
        return lr_scheduler.MultiStepLR(optimizer, milestones=[])
    if name == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * steps_per_epoch, **keywords)
    if name == "step":
        step_size = _steps(keywords.pop("step_size"), steps_per_epoch)
        return lr_scheduler.StepLR(optimizer, step_size=step_size, **keywords)
    if name == "multistep":
        milestones = [_steps(milestone, steps_per_epoch) for milestone in keywords.pop("milestones")]
        return lr_scheduler.MultiStepLR(optimizer, milestones=milestones, **keywords)
    peak = [group["lr"] for group in optimizer.param_groups]
    return lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=epochs * steps_per_epoch, **keywords)


def _steps(epochs: object, steps_per_epoch: int) -> int:
    if isinstance(epochs, bool) or not isinstance(epochs, (int, float)) or epochs <= 0:
        raise ValueError(f"expected a positive number of epochs, found {epochs!r}")
    return max(1, round(epochs * steps_per_epoch))
