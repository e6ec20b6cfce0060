"""The penalty in plain PyTorch: the definition, the oracle of the tests and the fallback of the native operator.

Every step is an ordinary differentiable operation, so derivatives of any order come from autograd.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from skreg._weights import check_coefficients, check_weights
from skreg.options import Exponentiate, Normalize, PenaltyOptions, Reduction


def neighbour_offsets(dimensions: int, connectivity: int) -> list[tuple[int, ...]]:
    """Half of the neighbourhood: one of each pair ``o, -o`` of offsets, so that every pair of positions counts once."""
    everywhere = itertools.product((-1, 0, 1), repeat=dimensions)
    return [o for o in everywhere if o > (0,) * dimensions and sum(map(abs, o)) <= connectivity]


def difference(kernels: Tensor, connectivity: int = 1) -> Tensor:
    """D(k): the sum of squared differences between neighbours (paper, section 3), each pair once.

    Args:
        kernels: ``(n, *spatial)``.

    Returns:
        ``(n,)``.
    """
    result = kernels.flatten(1).sum(1) * 0  # part of the graph even where no pair is
    for offset in neighbour_offsets(kernels.dim() - 1, connectivity):
        here, there = kernels, kernels
        for axis, step in enumerate(offset, start=1):
            length = kernels.shape[axis] - abs(step)
            if length <= 0:
                break
            here = here.narrow(axis, max(-step, 0), length)
            there = there.narrow(axis, max(step, 0), length)
        else:
            result = result + (there - here).square().flatten(1).sum(1)
    return result


def energy(kernels: Tensor) -> Tensor:
    """E(k): the sum of squares of each kernel, ``(n, *spatial)`` to ``(n,)``."""
    return kernels.square().flatten(1).sum(1)


def scores(kernels: Tensor, options: PenaltyOptions) -> Tensor:
    """S(k): D, D - E or D / E of each kernel, ``(n, *spatial)`` to ``(n,)``; D / E is 0 for a kernel of zeros."""
    d = difference(kernels, options.connectivity)
    if options.normalize is None:
        return d
    e = energy(kernels)
    if options.normalize == "subtract":
        return d - e
    empty = e == 0
    return torch.where(empty, torch.zeros_like(d), d / torch.where(empty, torch.ones_like(e), e))


def exponential(score: Tensor, max_exponent: float | None) -> Tensor:
    """exp, continued above `max_exponent` by its tangent there."""
    if max_exponent is None:
        return score.exp()
    # No choice between two results: the one not taken may be infinite, and its gradient then 0 times inf.
    return score.clamp(max=max_exponent).exp() * (1 + torch.relu(score - max_exponent))


def layer_penalty(weight: Tensor, options: PenaltyOptions) -> Tensor:
    """R(W) of one weight ``(A, B, *spatial)``, in float64 for float64 and in float32 otherwise; 0 without kernels."""
    wide = weight if weight.dtype == torch.float64 else weight.float()
    score = scores(wide.flatten(0, 1), options)
    if options.exponentiate == "kernel":
        score = exponential(score, options.max_exponent)
    total = score.sum()
    if options.reduction == "mean":
        total = total / max(score.numel(), 1)
    if options.exponentiate == "layer":
        total = exponential(total, options.max_exponent)
    return total


def penalties(weights: Sequence[Tensor], options: PenaltyOptions) -> list[Tensor]:
    """R(W) of each weight, scalars."""
    kind = weights[0].device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        return [layer_penalty(weight, options) for weight in weights]


def weighted_sum(weights: Sequence[Tensor], coefficients: Tensor, options: PenaltyOptions) -> Tensor:
    """The sum over weights of coefficient times R(W), in the widest dtype among them."""
    dtype = torch.float64 if any(w.dtype == torch.float64 for w in weights) else torch.float32
    factors = coefficients.to(weights[0].device, dtype)
    return torch.stack([p.to(dtype) for p in penalties(weights, options)]).mul(factors).sum()


def smooth_kernel_penalty(
    weights: Sequence[Tensor],
    *,
    coefficients: Sequence[float] | Tensor | None = None,
    normalize: Normalize | None = "subtract",
    exponentiate: Exponentiate | None = "kernel",
    reduction: Reduction = "sum",
    connectivity: int = 1,
    max_exponent: float | None = None,
) -> Tensor:
    """`skreg.smooth_kernel_penalty` in plain PyTorch: same arguments, same result, no native code.

    Example:
        >>> from skreg import reference
        >>> float(reference.smooth_kernel_penalty([torch.ones(2, 3, 3, 3)], exponentiate=None))
        -54.0
    """
    options = PenaltyOptions(normalize, exponentiate, reduction, connectivity, max_exponent)
    weights = check_weights(weights)
    return weighted_sum(weights, check_coefficients(coefficients, len(weights)), options)
