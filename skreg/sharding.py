"""Weights that are spread over processes (DTensor, as FSDP2 makes them): what each process does alone, what together.

Sharded on their first or second dimension, every kernel is whole on one process, so the gradient of the penalty is
local. Only ``exponentiate="layer"``, whose exp needs a layer's sum, and the penalty's value take a sum over processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from skreg import native
from skreg.options import PenaltyOptions
from skreg.penalty import penalties, penalty
from skreg.reference import exponential

Sharding = tuple[Any, tuple[int, ...]]  # a device mesh and those of its dimensions that split the weight


def is_distributed(weight: Tensor) -> bool:
    """Whether it is a DTensor. (Not by its class: importing that costs more than the whole of skreg.)

    Example:
        >>> is_distributed(torch.zeros(1, 1, 3, 3))
        False
    """
    return hasattr(weight, "placements")


def check_placements(weight: Tensor, name: str) -> None:
    """Raise ValueError unless each kernel of the DTensor is whole on one process; other tensors pass.

    Example:
        >>> check_placements(torch.zeros(1, 1, 3, 3), "conv.weight")
    """
    for placement in getattr(weight, "placements", ()):
        whole = placement.is_replicate() or getattr(placement, "dim", None) in (0, 1)
        if not whole:
            raise ValueError(
                f"{name}: its sharding {placement} does not leave every kernel whole on one process; expected "
                "Shard(0), Shard(1) or Replicate(), as fully_shard makes them. Shard it so, or exclude it"
            )


def local(tensor: Tensor) -> Tensor:
    """This process's part of a DTensor, sharing its memory, differentiable; other tensors as they are.

    Example:
        >>> weight = torch.zeros(1, 1, 3, 3)
        >>> local(weight) is weight
        True
    """
    if not is_distributed(tensor):
        return tensor
    return tensor.to_local(grad_placements=tensor.placements)  # type: ignore[attr-defined, no-any-return]


@dataclass(frozen=True)
class Part:
    """What this process computes of some weights: the penalty of `weights` with these coefficients and options has
    the right gradient; its sum over the processes of `sharding` is the value, unless `total` is that already.
    """

    members: list[int]
    weights: list[Tensor]
    coefficients: Tensor
    options: PenaltyOptions
    sharding: Sharding | None = None
    total: Tensor | None = None


def parts(weights: Sequence[Tensor], coefficients: Tensor, options: PenaltyOptions, names: Sequence[str]) -> list[Part]:
    """The work on this process, one part for all weights that are split in the same way.

    Args:
        weights: parameters, DTensors among them.
        coefficients: float64 CPU tensor, one a weight.
        options: the penalty's options.
        names: what errors call the weights.

    Raises:
        ValueError: a sharding splits kernels.
        FloatingPointError: with ``exponentiate="layer"``, on every process alike: exp overflows (CPU only).
    """
    if not any(map(is_distributed, weights)):
        return [Part(list(range(len(weights))), list(weights), coefficients, options)]
    by_sharding: dict[Sharding | None, list[int]] = {}
    for index, weight in enumerate(weights):
        check_placements(weight, names[index])
        by_sharding.setdefault(_sharding(weight), []).append(index)
    found = []
    for sharding, members in by_sharding.items():
        shards = [local(weights[index]) for index in members]
        factors = coefficients[torch.tensor(members, device="cpu")]
        part = Part(members, shards, factors, options, sharding)
        if sharding is not None:
            whole = [weights[index].shape[:2].numel() for index in members]
            part = _of_shards(part, whole, sharding, [names[index] for index in members])
        found.append(part)
    return found


def _of_shards(part: Part, whole: list[int], sharding: Sharding, names: Sequence[str]) -> Part:
    """The part with coefficients that turn means over local kernels into ones over the layer's `whole` kernels and
    that hold the derivative of a layer's exp.
    """
    share = torch.ones(len(whole), dtype=torch.float64, device="cpu")
    if part.options.reduction == "mean":
        kernels = [weight.shape[:2].numel() for weight in part.weights]
        share = torch.tensor(kernels, dtype=torch.float64, device="cpu") / torch.tensor(whole, device="cpu").clamp(1)
    factors, options = part.coefficients * share, part.options
    if options.exponentiate != "layer":
        return replace(part, coefficients=factors)
    options = replace(options, exponentiate=None)
    # The coefficients of the operator live on the CPU, so this waits for the device.
    exponents = sum_over_processes(penalties(part.weights, options).cpu() * share, sharding, part.weights[0])
    values = exponential(exponents, options.max_exponent) * part.coefficients
    if part.weights[0].device.type == "cpu":
        _check_finite(values, names)
    slope = exponents if options.max_exponent is None else exponents.clamp(max=options.max_exponent)
    total = values.sum().to(part.weights[0].device, native.result_dtype(part.weights))
    return replace(part, coefficients=factors * slope.exp(), options=options, total=total)


def sharded_penalty(
    weights: Sequence[Tensor], coefficients: Tensor, options: PenaltyOptions, names: Sequence[str]
) -> Tensor:
    """`skreg.penalty.penalty` of weights of which some are DTensors: the same value on every process.

    The gradient of each process's shard is that of the whole penalty, so it takes no averaging over processes.
    Every process of the mesh must call it.

    Raises:
        ValueError: a sharding splits kernels.
        FloatingPointError: on every process alike: the penalty is not finite (CPU only).
    """
    totals = []
    for part in parts(weights, coefficients, options, names):
        part_names = [names[index] for index in part.members]
        if part.sharding is None:
            totals.append(penalty(part.weights, part.coefficients, part.options, part_names))
            continue
        mine = penalty(part.weights, part.coefficients, part.options, part_names, error_if_nonfinite=False)
        total = part.total
        if total is None:
            total = sum_over_processes(mine.detach(), part.sharding, mine)
            # All processes see the same total, so all of them come here, or none.
            if mine.device.type == "cpu" and not math.isfinite(total.item()):
                values = penalties(part.weights, part.options) * part.coefficients
                _check_finite(sum_over_processes(values, part.sharding, mine), part_names)
        totals.append(_OverProcesses.apply(total, mine, part.total is not None))
    return torch.stack([total.to(totals[0].device) for total in totals]).sum()


class _OverProcesses(torch.autograd.Function):
    """The value over all processes with the gradient of this process's part."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, mine: Tensor, first_order_only: bool) -> Tensor:
        ctx.first_order_only = first_order_only
        return total.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, Tensor, None]:
        if ctx.first_order_only and torch.is_grad_enabled():
            raise RuntimeError(
                'create_graph=True: the penalty of sharded weights with exponentiate="layer" has no second derivative; '
                'use exponentiate="kernel" or None'
            )
        return None, grad_output, None


def sum_over_processes(values: Tensor, sharding: Sharding, like: Tensor) -> Tensor:
    """The sum of `values` over the processes, the same bits on each of them.

    Added in the order of the ranks after a gather, because the order inside an all-reduce is the backend's choice.

    Args:
        values: a small tensor.
        sharding: the mesh, and the dimensions of it to sum over.
        like: a tensor on the device that communicates.
    """
    mesh, dimensions = sharding
    summed = values.to(like.device)
    for dimension in dimensions:
        gathered = [torch.empty_like(summed) for _ in range(mesh.size(dimension))]
        torch.distributed.all_gather(gathered, summed, group=mesh.get_group(dimension))
        summed = torch.stack(gathered).sum(0)
    return summed.to(values.device)


def _sharding(weight: Tensor) -> Sharding | None:
    """How the weight is split, or None where each process has all of it."""
    if not is_distributed(weight):
        return None
    split = tuple(i for i, p in enumerate(weight.placements) if not p.is_replicate())  # type: ignore[attr-defined]
    return (weight.device_mesh, split) if split else None  # type: ignore[attr-defined]


def _check_finite(values: Tensor, names: Sequence[str]) -> None:
    """Raise the `FloatingPointError` that names the first weight whose value is not finite."""
    for name, value in zip(names, values.tolist(), strict=True):
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name}: the penalty is {value}; set max_exponent (such as max_exponent=10.0), or use "
                'exponentiate="kernel" or None, or reduction="mean" where exponentiate="layer"; or its weights are nan'
            )
