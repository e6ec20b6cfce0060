"""The regularizer: which weights, how strongly, and the penalty of a model in one call."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from skreg.hook import attach
from skreg.options import Exponentiate, Normalize, PenaltyOptions, Reduction
from skreg.penalty import penalty
from skreg.selection import Patterns, finite, match_coefficients, select_weights
from skreg.statistics import KernelStatistics, kernel_statistics

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle


class SmoothKernelRegularizer:
    """Penalises differences between neighbouring weights in a model's convolution kernels (paper, section 3).

    Use one of two forms. As part of the loss: ``(loss + reg()).backward()``. Or as a hook, which is faster
    because no graph is built: ``reg.attach(optimizer)`` once, and every ``optimizer.step()`` sees the
    penalty's gradient.

    Only parameters that require a gradient at the time of a call count, in the value and in the gradient: a
    frozen layer adds nothing. The parameters are held by reference, so a model may be moved or cast
    afterwards.

    Args:
        model_or_named_parameters: a module, whose weights of convolutions (1-D to 3-D, transposed too) are
            taken, or (name, parameter) pairs, which are all taken. Single-element (1x1) kernels have no
            neighbours and are left out.
        strength: the factor in front of the penalty; it may be negative (the paper's H variants, section
            4.1). It may be set at any time, also under `torch.compile`, which does not compile again.
        include: fnmatch patterns over parameter names; the floating parameters with 3 to 5 dimensions that
            match any of them are taken instead, whatever module they belong to. A 1x1 kernel is taken when
            its exact name is given.
        exclude: patterns of parameters to leave out.
        coefficients: factors by pattern, for single layers or groups of them. The last pattern that matches a
            name decides, so general ones come first: ``{"*": 0.1, "stem.*": 1.0}``. Unmatched: 1.
        normalize: how S is formed, see `PenaltyOptions`; so are the rest.
        exponentiate: what exp is taken of.
        reduction: ``"sum"`` or ``"mean"`` over the kernels of a layer.
        connectivity: which positions are neighbours.
        max_exponent: where exp becomes linear.

    Attributes:
        options: the penalty's options.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a pattern that matches nothing, an empty selection, a weight given twice or not
            initialised yet, a strength or coefficient that is not finite, an unknown option.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1))
        >>> reg = SmoothKernelRegularizer(model, strength=1e-3)
        >>> reg.names
        ['0.weight']
        >>> reg().backward()
    """

    def __init__(
        self,
        model_or_named_parameters: nn.Module | Iterable[tuple[str, Tensor]],
        strength: float = 1e-3,
        *,
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        coefficients: Mapping[str, float] | None = None,
        normalize: Normalize | None = "subtract",
        exponentiate: Exponentiate | None = "kernel",
        reduction: Reduction = "sum",
        connectivity: int = 1,
        max_exponent: float | None = None,
    ) -> None:
        self.options = PenaltyOptions(normalize, exponentiate, reduction, connectivity, max_exponent)
        weights = select_weights(model_or_named_parameters, include, exclude)
        self._names = list(weights)
        self._weights = list(weights.values())
        factors = match_coefficients(self._names, coefficients)
        # On the CPU whatever the default device: the operator reads it without a transfer. A tensor, because
        # that is an input of compiled code: a new strength does not compile anew.
        self._coefficients = torch.tensor(factors, dtype=torch.float64, device="cpu")
        self.strength = strength

    @property
    def strength(self) -> float:
        """The factor in front of the penalty."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._strength = finite("strength", value)
        # Not in place: a graph that waits for its backward pass holds the old one.
        self._scaled = self._coefficients * self._strength

    @property
    def names(self) -> list[str]:
        """The names of the regularized parameters, frozen ones included."""
        return list(self._names)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The regularized parameters with their names, frozen ones included."""
        return zip(self._names, self._weights, strict=True)

    def trainable(self, among: Container[int] | None = None) -> tuple[list[str], list[Tensor], Tensor]:
        """What counts now: the parameters that require a gradient.

        Args:
            among: keep only parameters whose `id` is in here.

        Returns:
            Names, parameters, and strength times coefficient of each as a float64 tensor ``(n,)`` on the CPU.
        """
        chosen = [
            index
            for index, weight in enumerate(self._weights)
            if weight.requires_grad and (among is None or id(weight) in among)
        ]
        if len(chosen) == len(self._weights):
            return self._names, self._weights, self._scaled
        scaled = self._scaled[torch.tensor(chosen, dtype=torch.int64, device="cpu")]
        return [self._names[i] for i in chosen], [self._weights[i] for i in chosen], scaled

    def __call__(self) -> Tensor:
        """Strength times R, a scalar to add to the loss; 0 when every parameter is frozen.

        Raises:
            FloatingPointError: R is not finite; the message names the layer.
        """
        names, weights, scaled = self.trainable()
        if not weights:
            return torch.zeros((), device=self._weights[0].device)
        return penalty(weights, scaled, self.options, names)

    def attach(self, optimizer: Optimizer, *, decoupled: bool = False) -> RemovableHandle:
        """Let every ``optimizer.step()`` minimise the penalty as well; see `skreg.hook.attach`."""
        return attach(self, optimizer, decoupled=decoupled)

    def statistics(self) -> list[KernelStatistics]:
        """Roughness, spectrum and penalty of each regularized weight as it is now, frozen ones included."""
        return kernel_statistics(dict(self.named_parameters()), self.options)

    def __repr__(self) -> str:
        kernels = sum(weight.shape[:2].numel() for weight in self._weights)
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.as_dict().items())
        return (
            f"{type(self).__name__}({len(self._weights)} layers, {kernels} kernels, "
            f"strength={self.strength:g}, {options})"
        )
