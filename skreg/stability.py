"""The largest step along the penalty's gradient that does not blow rough kernels up (`docs/method.md`)."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from skreg import reference
from skreg.options import PenaltyOptions


@functools.cache
def largest_eigenvalue(spatial: tuple[int, ...], connectivity: int = 1) -> float:
    """The largest eigenvalue of the Laplacian of a kernel's grid graph, that is the largest D(k) / E(k).

    Args:
        spatial: the kernel's spatial shape, such as ``(3, 3)``.
        connectivity: which positions are neighbours, see `PenaltyOptions`.

    Example:
        >>> round(largest_eigenvalue((3, 3)), 6), round(largest_eigenvalue((3, 3), connectivity=2), 6)
        (6.0, 9.0)
    """
    if connectivity == 1:
        return sum(4 * math.sin(math.pi * (length - 1) / (2 * length)) ** 2 for length in spatial)
    elements = math.prod(spatial)
    positions = torch.arange(elements, device="cpu").reshape(spatial)
    laplacian = torch.zeros(elements, elements, dtype=torch.float64, device="cpu")
    for offset in reference.neighbour_offsets(len(spatial), connectivity):
        here, there = positions, positions
        for axis, step in enumerate(offset):
            length = max(spatial[axis] - abs(step), 0)
            here = here.narrow(axis, max(-step, 0), length)
            there = there.narrow(axis, max(step, 0), length)
        p, q = here.flatten(), there.flatten()
        laplacian[p, q] = laplacian[q, p] = -1.0
    laplacian -= torch.diag(laplacian.sum(1))
    return float(torch.linalg.eigvalsh(laplacian)[-1])


@torch.no_grad()
def largest_stable_step(weight: Tensor, options: PenaltyOptions) -> float:
    """The largest ``lr * strength * coefficient`` at which plain gradient steps shrink every rough component.

    Beyond it the roughest component of some kernel grows with each step and changes its sign (`docs/method.md`,
    "The largest stable step"). It is a bound at the weights as they are; reading it waits for a CUDA device.

    Args:
        weight: ``(A, B, *spatial)``.
        options: the penalty's options.

    Returns:
        Infinity where there is none: without kernels, and for ``normalize="divide"``, whose steps are too long
        only until they have made the kernel large enough.

    Example:
        >>> weight = torch.zeros(8, 3, 3, 3)
        >>> largest_stable_step(weight, PenaltyOptions())    # 1 / (6 - 1)
        0.2
    """
    kernels = weight.shape[:2].numel()
    curvature = largest_eigenvalue(tuple(weight.shape[2:]), options.connectivity)
    if options.normalize == "divide" or kernels == 0:
        return math.inf
    if options.normalize == "subtract":
        curvature -= 1
    if curvature <= 0:
        return math.inf
    step = 1 / round(curvature, 12)
    if options.exponentiate is not None:
        scores = reference.scores(weight.double().flatten(0, 1), options)
        if options.exponentiate == "kernel":
            exponent = float(scores.max())
        else:
            exponent = float(scores.mean() if options.reduction == "mean" else scores.sum())
        exponent = exponent if options.max_exponent is None else min(exponent, options.max_exponent)
        step = step * math.exp(-exponent) if exponent > -700 else math.inf
    return step * kernels if options.reduction == "mean" else step


def step_factor(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> float | None:
    """How much longer a step may be with this optimizer's momentum than without: 1 for plain gradient steps.

    The heavy ball allows ``1 + momentum`` times as much, Nesterov's form
    ``(1 + momentum) / (1 + 2 momentum)`` times, and dampening divides the step.

    Returns:
        None for an optimizer that is not `torch.optim.SGD`, whose steps are not the gradient's.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.5)
        >>> step_factor(optimizer, optimizer.param_groups[0])
        1.5
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return None
    momentum = float(group["momentum"])
    if group["nesterov"]:
        return (1 + momentum) / (1 + 2 * momentum)
    passed_on = 1 - float(group["dampening"]) if momentum else 1.0
    return (1 + momentum) / passed_on if passed_on > 0 else math.inf


def warn_if_unstable(
    names: Sequence[str],
    weights: Sequence[Tensor],
    steps: Sequence[float],
    factors: Sequence[float | None],
    options: PenaltyOptions,
) -> None:
    """Warn, naming the worst weight, where ``lr * strength * coefficient`` is beyond the largest stable step.

    Args:
        names: of the weights.
        weights: ``(A, B, *spatial)`` each.
        steps: ``lr * strength * coefficient`` of each.
        factors: what its optimizer allows on top, see `step_factor`; None: not known, no warning.
        options: the penalty's options.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_if_unstable(["conv"], [torch.zeros(1, 1, 3, 3)], [0.4], [1.0], PenaltyOptions())
        >>> str(caught[0].message)[:67]
        'conv: lr * strength * coefficient = 0.4 is beyond 0.2, the largest '
    """
    beyond: list[tuple[float, str, float, float]] = []
    for name, weight, step, factor in zip(names, weights, steps, factors, strict=True):
        if factor is None or step <= 0:  # a negative strength is meant to make kernels rough: it has no bound
            continue
        bound = factor * largest_stable_step(weight, options)
        if step > bound * (1 + 1e-9):
            beyond.append((step / bound if bound else math.inf, name, step, bound))
    if not beyond:
        return
    ratio, worst, step, bound = max(beyond, key=lambda found: found[0])
    others = f" ({len(beyond) - 1} other weights are beyond theirs too)" if len(beyond) > 1 else ""
    warnings.warn(
        f"{worst}: lr * strength * coefficient = {step:.4g} is beyond {bound:.4g}, the largest step "
        f"of the penalty that does not make rough kernels rougher{others}. Divide the strength, or the learning rate, "
        f"by {ratio:.3g} or more, or set max_exponent if exp is what makes it steep",
        RuntimeWarning,
        stacklevel=2,
    )
