"""Who is measured: skreg's ways to value and gradient, what PyTorch alone can do, and bare copies.

Each is prepared once for given weights and options, and then called with nothing to do but the work itself.
The rivals know the options that the benchmark varies, `exponentiate` and `reduction`; the rest are defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skreg import native
from skreg.options import PenaltyOptions
from skreg.penalty import add_penalty_gradient_
from skreg.regularizer import SmoothKernelRegularizer

Result = tuple[Tensor | None, Sequence[Tensor]]  # the value, where there is one, and a gradient a weight
Call = Callable[[], Result]
Loss = Callable[[Sequence[Tensor]], Tensor]


class Unavailable(Exception):
    """This contender cannot run here; the message says why."""


@dataclass(frozen=True)
class Contender:
    """One way to do the work, or a part of it to compare with.

    Attributes:
        prepare: makes the call to be timed from the weights and the options.
        passes: how often the task moves as many bytes as the weights hold, at the least: 2 to read weights
            and write gradients, 3 to add to gradients. None where bytes are not what the time goes to.
        checked: whether the first call's result is value and gradient of the penalty.
        dtype, channels_last: in which form it gets the weights; None: in the one that the case has.
    """

    prepare: Callable[[list[Tensor], PenaltyOptions], Call]
    passes: int | None = 2
    checked: bool = True
    dtype: torch.dtype | None = None
    channels_last: bool | None = None

    def form(self, weights: list[Tensor]) -> list[Tensor]:
        """The weights in the form that it works on: themselves, or copies."""
        if self.dtype is not None:
            weights = [weight.to(self.dtype) for weight in weights]
        if self.channels_last is not None:
            memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
            weights = [weight.contiguous(memory_format=memory_format) for weight in weights]
        return weights


def _ours(weights: list[Tensor], options: PenaltyOptions) -> Call:
    coefficients = torch.ones(len(weights), dtype=torch.float64)
    codes = options.native()

    def call() -> Result:
        value, _, gradients = native.operators.value_and_gradients(weights, coefficients, *codes)
        return value, gradients

    return call


def _ours_add(weights: list[Tensor], options: PenaltyOptions) -> Call:
    coefficients = torch.ones(len(weights), dtype=torch.float64)
    gradients = _zeros(weights)

    def call() -> Result:
        add_penalty_gradient_(weights, gradients, coefficients, options)
        return None, gradients

    return call


def _regularizer(weights: Sequence[Tensor], options: PenaltyOptions) -> SmoothKernelRegularizer:
    named = [(f"layer{index}.weight", weight) for index, weight in enumerate(weights)]
    return SmoothKernelRegularizer(named, strength=1.0, **options.as_dict())


def _ours_autograd(weights: list[Tensor], options: PenaltyOptions) -> Call:
    leaves = _leaves(weights)
    regularizer = _regularizer(leaves, options)
    return _backward(lambda _: regularizer(), leaves)


def _ours_autograd_add(weights: list[Tensor], options: PenaltyOptions) -> Call:
    leaves = _leaves(weights)
    regularizer = _regularizer(leaves, options)
    return _backward(lambda _: regularizer(), leaves, add=True)


def _ours_on_one_kernel(weights: list[Tensor], options: PenaltyOptions) -> Call:
    return _ours([weight[:1, :1].clone() for weight in weights], options)


class _Ready(torch.autograd.Function):
    """A function of the weights that costs nothing: its value and gradients are there already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        # Aliases, which autograd puts into `.grad` without a copy, as it does with fresh gradients.
        return None, None, *[gradient.detach() for gradient in ctx.gradients]


def _autograd_alone(weights: list[Tensor], options: PenaltyOptions) -> Call:
    leaves = _leaves(weights)
    value, gradients = torch.zeros((), device=weights[0].device), _zeros(weights)
    return _backward(lambda leaves: _Ready.apply(value, gradients, *leaves), leaves)


def naive_penalty(weights: Sequence[Tensor], options: PenaltyOptions) -> Tensor:
    """The penalty as one would write it first: differences of slices; autograd does the rest."""
    total = torch.zeros((), device=weights[0].device)
    for weight in weights:
        kernels = weight.float()
        down = (kernels[..., 1:, :] - kernels[..., :-1, :]).square().sum((-2, -1))
        right = (kernels[..., 1:] - kernels[..., :-1]).square().sum((-2, -1))
        scores = down + right - kernels.square().sum((-2, -1))
        if options.exponentiate == "kernel":
            scores = scores.exp()
        layer = scores.mean() if options.reduction == "mean" else scores.sum()
        total = total + (layer.exp() if options.exponentiate == "layer" else layer)
    return total


def _naive(weights: list[Tensor], options: PenaltyOptions) -> Call:
    return _backward(lambda leaves: naive_penalty(leaves, options), _leaves(weights))


def _naive_compiled(weights: list[Tensor], options: PenaltyOptions) -> Call:
    torch.compiler.reset()  # graphs of earlier cases count against the limit of recompilations
    compiled = torch.compile(naive_penalty, fullgraph=True, dynamic=False)
    call = _backward(lambda leaves: compiled(leaves, options), _leaves(weights))
    try:
        call()
    except Exception as error:  # a missing compiler shows as one of many types
        reason = next(iter(str(error).splitlines()), "")
        raise Unavailable(f"torch.compile failed: {type(error).__name__}: {reason}") from error
    return call


def _matrix(weights: list[Tensor], options: PenaltyOptions) -> Call:
    products = _matrices(weights)
    return lambda: matrix_penalty(weights, products, options)


def _matrix_add(weights: list[Tensor], options: PenaltyOptions) -> Call:
    products, gradients = _matrices(weights), _zeros(weights)

    def call() -> Result:
        value, additions = matrix_penalty(weights, products, options)
        for gradient, addition in zip(gradients, additions, strict=True):
            gradient.add_(addition)
        return value, gradients

    return call


def matrix_penalty(
    weights: Sequence[Tensor], matrices: Sequence[Tensor], options: PenaltyOptions
) -> tuple[Tensor, list[Tensor]]:
    """Value and gradient with as few PyTorch calls as they take, without autograd.

    The gradient of S(k) is a constant matrix times the kernel, 2 (L - I) k, and S itself is half of the
    scalar product of the two. Of the ways to form row products, einsum was the fastest.
    """
    total, gradients = torch.zeros((), device=weights[0].device), []
    for weight, matrix in zip(weights, matrices, strict=True):
        kernels = weight.reshape(-1, len(matrix)).float()
        gradient = kernels @ matrix
        scores = torch.einsum("nk,nk->n", kernels, gradient).mul_(0.5)
        if options.exponentiate == "kernel":
            gradient.mul_(scores.exp_()[:, None])
        layer = scores.mean() if options.reduction == "mean" else scores.sum()
        if options.exponentiate == "layer":
            layer = layer.exp()
            gradient.mul_(layer / len(kernels) if options.reduction == "mean" else layer)
        elif options.reduction == "mean":
            gradient.div_(len(kernels))
        total = total + layer
        gradients.append(gradient.view(weight.shape).to(weight.dtype))
    return total, gradients


def _matrices(weights: Sequence[Tensor]) -> list[Tensor]:
    """2 (L - I) of each weight's kernels, ``(k * k, k * k)``, with L the Laplacian of the grid."""
    made: dict[tuple[int, int], Tensor] = {}
    for weight in weights:
        height, width = weight.shape[2:]
        if (height, width) not in made:
            laplacian = torch.kron(_path_laplacian(height), torch.eye(width))
            laplacian += torch.kron(torch.eye(height), _path_laplacian(width))
            made[height, width] = (2 * (laplacian - torch.eye(height * width))).to(weight.device)
    return [made[weight.shape[2], weight.shape[3]] for weight in weights]


def _path_laplacian(length: int) -> Tensor:
    differences = torch.eye(length).diff(dim=0)
    return differences.T @ differences


def _copy_fresh(weights: list[Tensor], options: PenaltyOptions) -> Call:
    return lambda: (None, [weight.clone() for weight in weights])


def _copy_ready(weights: list[Tensor], options: PenaltyOptions) -> Call:
    results = _zeros(weights)
    return lambda: (None, [result.copy_(weight) for result, weight in zip(results, weights, strict=True)])


def _add(weights: list[Tensor], options: PenaltyOptions) -> Call:
    results = _zeros(weights)
    return lambda: (None, [result.add_(weight) for result, weight in zip(results, weights, strict=True)])


def _leaves(weights: Sequence[Tensor]) -> list[Tensor]:
    return [weight.detach().requires_grad_() for weight in weights]


def _zeros(weights: Sequence[Tensor]) -> list[Tensor]:
    """Zeros like `weights`, written: memory that was only asked for would be slow once, when first used."""
    return [torch.empty_like(weight).zero_() for weight in weights]


def _backward(loss: Loss, leaves: list[Tensor], *, add: bool = False) -> Call:
    """Forward and backward through autograd; `.grad` is empty before, or with `add` there already."""
    if add:
        for leaf, zeros in zip(leaves, _zeros(leaves), strict=True):
            leaf.grad = zeros

    def call() -> Result:
        if not add:
            for leaf in leaves:
                leaf.grad = None
        value = loss(leaves)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]

    return call


OURS, OURS_ADD = "ours", "ours, add"
OURS_BFLOAT16, OURS_LAST = "ours, bfloat16", "ours, channels_last"
OURS_BFLOAT16_LAST, COPY_BFLOAT16 = "ours, bfloat16, channels_last", "copy, fresh memory, bfloat16"
COPY_FRESH, COPY_READY = "copy, fresh memory", "copy, ready memory"
COMPILED = "naive, compiled"
CONTENDERS: dict[str, Contender] = {
    OURS: Contender(_ours),
    "ours, autograd": Contender(_ours_autograd),
    "naive": Contender(_naive),
    COMPILED: Contender(_naive_compiled),
    "matrix": Contender(_matrix),
    OURS_ADD: Contender(_ours_add, passes=3),
    "ours, autograd, add": Contender(_ours_autograd_add, passes=3),
    "matrix, add": Contender(_matrix_add, passes=3),
    "ours on one kernel": Contender(_ours_on_one_kernel, passes=None, checked=False),
    "autograd alone": Contender(_autograd_alone, passes=None, checked=False),
    "add, same bytes": Contender(_add, passes=3, checked=False),
    OURS_BFLOAT16: Contender(_ours, dtype=torch.bfloat16),
    OURS_LAST: Contender(_ours, channels_last=True),
    OURS_BFLOAT16_LAST: Contender(_ours, dtype=torch.bfloat16, channels_last=True),
    COPY_BFLOAT16: Contender(_copy_fresh, checked=False, dtype=torch.bfloat16),
    COPY_FRESH: Contender(_copy_fresh, checked=False),
    COPY_READY: Contender(_copy_ready, checked=False),
}


def count_bytes(weights: Sequence[Tensor]) -> int:
    """Bytes that the weights hold."""
    return sum(math.prod(weight.shape) * weight.element_size() for weight in weights)
