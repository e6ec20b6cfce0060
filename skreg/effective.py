"""The weight that a module works with now: its parameter, or what a parametrization or a pruning mask makes of it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_computed(module: nn.Module, attribute: str) -> bool:
    """Whether the module computes this weight from other parameters, so that it is no parameter itself.

    Example:
        >>> convolution = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 3))
        >>> is_computed(convolution, "weight"), is_computed(nn.Conv2d(1, 1, 3), "weight")
        (True, False)
    """
    if attribute in module._parameters:
        return False
    # A parametrization makes it a property of the class, pruning and the like a plain attribute.
    return parametrize.is_parametrized(module, attribute) or attribute in module.__dict__


def computed_weight(module: nn.Module, attribute: str, name: str) -> Tensor:
    """The weight that the module's forward pass uses, as a differentiable function of what it is computed from.

    It has no side effect: a parametrization is evaluated in eval mode, so `spectral_norm` makes no power iteration
    and yields the weight of the last forward pass in training.

    Args:
        module: whose weight.
        attribute: its name in the module, such as ``"weight"``.
        name: what errors call it.

    Raises:
        ValueError: it comes from something else than `torch.nn.utils.parametrize` or `torch.nn.utils.prune`.

    Example:
        >>> convolution = nn.utils.prune.l1_unstructured(nn.Conv2d(1, 1, 3), "weight", amount=4)
        >>> int((computed_weight(convolution, "weight", "conv") == 0).sum())
        4
    """
    if parametrize.is_parametrized(module, attribute):
        with _eval(cast(nn.ModuleDict, module.parametrizations)[attribute]):
            return getattr(module, attribute)  # type: ignore[no-any-return]
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == attribute:
            return hook.apply_mask(module)  # type: ignore[no-any-return, no-untyped-call]
    raise ValueError(
        f"{name}: {type(module).__name__} has no parameter {attribute!r}, and what sets it is neither "
        "torch.nn.utils.parametrize nor torch.nn.utils.prune (the old torch.nn.utils.weight_norm and spectral_norm "
        "leave it stale between forward passes): use torch.nn.utils.parametrizations instead, or exclude this weight"
    )


class Weight:
    """A regularized weight: the module that holds it, if known, and the parameter last seen there.

    The parameter is looked up anew in each step, because `load_state_dict(assign=True)`, `fully_shard`, pruning
    and parametrizations replace it.
    """

    def __init__(self, name: str, parameter: Tensor, source: object) -> None:
        self.name = name
        self._parameter = parameter
        self._module: nn.Module | None = None
        if isinstance(source, nn.Module):
            path, _, self._attribute = name.rpartition(".")
            self._module = source.get_submodule(path)

    def is_computed(self) -> bool:
        """Whether it is computed from other parameters now."""
        return self._module is not None and is_computed(self._module, self._attribute)

    def tensor(self) -> Tensor:
        """The parameter, or the weight computed from others.

        Raises:
            RuntimeError: the model has lost it, or replaced it while FSDP holds the gathered weights.
            ValueError: as `computed_weight`.
        """
        if self._module is None:
            return self._parameter
        current = self._module._parameters.get(self._attribute)
        if current is self._parameter:
            return current
        if current is None:
            if is_computed(self._module, self._attribute):
                return computed_weight(self._module, self._attribute, self.name)
            raise RuntimeError(f"{self.name}: the model has no such parameter any more; build the regularizer anew")
        if hasattr(self._parameter, "placements") and not hasattr(current, "placements"):
            return self._parameter  # FSDP shows the gathered weight between forward and backward; the shard stays
        if not hasattr(current, "placements") and _fsdp_is_running():
            raise RuntimeError(
                f"{self.name}: the parameter was replaced after the regularizer was built; build it after fully_shard"
            )
        self._parameter = current
        return current


@contextmanager
def _eval(module: nn.Module) -> Iterator[None]:
    """Eval mode for the while, without a write where nothing is to be changed."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _fsdp_is_running() -> bool:
    return "torch.distributed.fsdp" in sys.modules and torch.distributed.is_initialized()
