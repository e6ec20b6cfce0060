"""What the callbacks share: which regularizer, and what is logged of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from skreg.regularizer import SmoothKernelRegularizer


def check_arguments(regularizer: object, arguments: dict[str, Any]) -> None:
    """Refuse what is neither a regularizer nor arguments to build one from.

    Raises:
        TypeError: `regularizer` is something else than a `SmoothKernelRegularizer`, or comes with `arguments`.
    """
    if regularizer is None:
        return
    if not isinstance(regularizer, SmoothKernelRegularizer):
        raise TypeError(
            f"regularizer: expected a SmoothKernelRegularizer or None, found {type(regularizer).__name__}; to have one "
            "built from the module when training starts, pass keyword arguments: SmoothKernelCallback(strength=1e-3)"
        )
    if arguments:
        raise TypeError(f"{', '.join(arguments)}: give either a regularizer or arguments to build one, not both")


def owners(regularizer: SmoothKernelRegularizer, optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """Those of the optimizers that step a regularized weight.

    Raises:
        ValueError: none does, or two step the same weight, whose penalty would count twice.
    """
    names = {id(parameter): name for name, parameter in regularizer.named_parameters()}
    seen: set[int] = set()
    found = []
    for optimizer in optimizers:
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]} & names.keys()
        if twice := owned & seen:
            raise ValueError(
                f"{names[min(twice)]}: belongs to two optimizers, so its penalty would count twice; exclude it, or add "
                "the penalty to the loss instead: loss = criterion(model(x), y) + reg()"
            )
        seen |= owned
        found += [optimizer] if owned else []
    if not found:
        raise ValueError(
            f"none of the regularized parameters ({', '.join(regularizer.names[:10])}) belongs to an optimizer of this "
            "training; if you gave a regularizer, build it from the module that is trained"
        )
    return found


@torch.no_grad()
def summary(regularizer: SmoothKernelRegularizer) -> dict[str, float]:
    """What is logged: strength times R, the strength, and the roughness D / E in the mean over layers."""
    statistics = regularizer.statistics()
    return {
        "smooth_kernels/penalty": float(regularizer()),
        "smooth_kernels/strength": regularizer.strength,
        "smooth_kernels/roughness": sum(layer.roughness for layer in statistics) / len(statistics),
    }


def built(regularizer: SmoothKernelRegularizer | None, module: nn.Module, arguments: dict[str, Any]) -> Any:
    """The regularizer that was given, or one of `module`."""
    return SmoothKernelRegularizer(module, **arguments) if regularizer is None else regularizer
