"""The smooth-kernel penalty as a differentiable function (paper, section 3; `docs/method.md`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from skreg import native, reference
from skreg._weights import check_coefficients, check_weights, weight_name
from skreg.options import Exponentiate, Normalize, PenaltyOptions, Reduction


def smooth_kernel_penalty(
    weights: Sequence[Tensor],
    *,
    coefficients: Sequence[float] | Tensor | None = None,
    normalize: Normalize | None = "subtract",
    exponentiate: Exponentiate | None = "kernel",
    reduction: Reduction = "sum",
    connectivity: int = 1,
    max_exponent: float | None = None,
    names: Sequence[str] | None = None,
    error_if_nonfinite: bool | None = None,
) -> Tensor:
    """The penalty of convolution weights: sum over layers of ``coefficient * R(W)``, value and gradient in one call.

    Args:
        weights: conv weights ``(A, B, *spatial)`` with one to three spatial dimensions, of float32, float64,
            bfloat16 or float16 (mixed as you like), of any strides, all on one kind of device.
        coefficients: one factor a weight; 1 by default. A float64 CPU tensor is the fast form.
        normalize, exponentiate, reduction, connectivity, max_exponent: see `skreg.options.PenaltyOptions`.
        names: what error messages call the weights; ``weights[0]`` and so on by default.
        error_if_nonfinite: raise when the penalty is not finite. By default on the CPU alone, because on other
            devices the check waits for the device.

    Returns:
        A scalar, float64 if one of the weights is, otherwise float32. Differentiable twice natively.

    Raises:
        TypeError: for something that is no dense floating-point tensor.
        ValueError: for weights with the wrong number of dimensions, given twice or on mixed devices, for
            coefficients of the wrong number and for options that do not exist.
        FloatingPointError: when the penalty overflows or a weight is not finite; it names the weight.

    Example:
        >>> import torch, skreg
        >>> weight = torch.ones(8, 3, 3, 3, requires_grad=True)
        >>> loss = skreg.smooth_kernel_penalty([weight])
        >>> loss.backward()
        >>> round(float(loss), 6)    # 24 kernels with D = 0 and E = 9, each exp(-9)
        0.002962
    """
    options = PenaltyOptions(normalize, exponentiate, reduction, connectivity, max_exponent)
    weights = check_weights(weights, names)
    factors = check_coefficients(coefficients, len(weights))
    return penalty(weights, factors, options, names, error_if_nonfinite)


def penalty(
    weights: Sequence[Tensor],
    coefficients: Tensor,
    options: PenaltyOptions,
    names: Sequence[str] | None = None,
    error_if_nonfinite: bool | None = None,
) -> Tensor:
    """`smooth_kernel_penalty` of weights and coefficients that were checked before."""
    first = weights[0].device
    if any(w.device != first for w in weights):
        return _over_devices(weights, coefficients, options, names, error_if_nonfinite)
    if _is_transformed() or not native.supports(first):
        total = reference.weighted_sum(weights, coefficients, options)
    elif torch.is_grad_enabled() and any(w.requires_grad for w in weights):
        total = SmoothKernelPenalty.apply(coefficients, options, *weights)
    else:
        total = native.operators.value(weights, coefficients, *options.native())[0]
    if torch.compiler.is_compiling() or _is_transformed() or isinstance(total, FakeTensor):
        return total
    if error_if_nonfinite or (error_if_nonfinite is None and first.type == "cpu"):
        check_finite(total, weights, coefficients, options, names)
    return total


class SmoothKernelPenalty(torch.autograd.Function):
    """The native penalty for autograd: ``apply(coefficients, options, *weights)`` to a scalar.

    The forward call computes the gradient with the value, and the backward call hands it over as it is when the
    upstream gradient is 1, so that `.grad` takes the memory without a copy. A second backward through the same
    graph finds it gone and computes it again.

    Example:
        >>> weight = torch.zeros(1, 2, 3, 3, requires_grad=True)    # two kernels, exp(0) each
        >>> float(SmoothKernelPenalty.apply(torch.ones(1, dtype=torch.float64), PenaltyOptions(), weight))
        2.0
    """

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, options: PenaltyOptions, *weights: Tensor) -> Tensor:
        total, _, gradients = native.operators.value_and_gradients(weights, coefficients, *options.native())
        ctx.options = options
        if torch.compiler.is_compiling():
            ctx.traced = True
            ctx.save_for_backward(coefficients, *weights, *gradients)
        else:
            ctx.traced = False
            # Not saved tensors: a second reference to a gradient would make autograd copy it into `.grad`.
            ctx.gradients = gradients
            ctx.save_for_backward(coefficients, *weights)
        return total  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        coefficients, *saved = ctx.saved_tensors
        if ctx.traced:
            return None, None, *[g * grad_output.to(g.dtype) for g in saved[len(saved) // 2 :]]
        if torch.is_grad_enabled():
            return None, None, *_Gradient.apply(grad_output, coefficients, ctx.options, *saved)
        gradients = ctx.__dict__.pop("gradients", None)
        if _is_batched(grad_output):  # vmap knows no operator of ours
            gradients = gradients or native.operators.gradients(saved, coefficients, None, *ctx.options.native())
            return None, None, *[g * grad_output.to(g.dtype) for g in gradients]
        if gradients is None:
            gradients = native.operators.gradients(saved, coefficients, grad_output, *ctx.options.native())
        elif not _is_one(grad_output):
            native.operators.scale_(gradients, grad_output)
        return None, None, *gradients


class _Gradient(torch.autograd.Function):
    """The gradient as a differentiable function: its derivative is the Hessian times a vector (double backward)."""

    @staticmethod
    def forward(
        ctx: Any, scale: Tensor, coefficients: Tensor, options: PenaltyOptions, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.options = options
        ctx.save_for_backward(scale, coefficients, *weights)
        return tuple(native.operators.gradients(weights, coefficients, scale, *options.native()))

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor) -> tuple[Tensor | None, ...]:
        scale, coefficients, *weights = ctx.saved_tensors
        if any(map(_is_batched, vectors)):
            raise NotImplementedError(
                "second derivatives along many vectors at once (vectorize=True, is_grads_batched=True) are not "
                "supported; use torch.func.hessian, or one vector at a time"
            )
        if torch.is_grad_enabled():
            return _differentiable_hessian_vector(scale, coefficients, ctx.options, weights, vectors)
        slope, products = native.operators.hessian_vector(weights, vectors, coefficients, scale, *ctx.options.native())
        return slope.to(scale.dtype), None, None, *products


def _differentiable_hessian_vector(
    scale: Tensor,
    coefficients: Tensor,
    options: PenaltyOptions,
    weights: list[Tensor],
    vectors: Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """What `_Gradient.backward` returns, by the reference, for derivatives of the third order and above."""
    inputs = [w if w.requires_grad else w.detach().requires_grad_() for w in weights]
    total = reference.weighted_sum(inputs, coefficients, options)
    gradients = torch.autograd.grad(total, inputs, create_graph=True)
    slope = torch.stack([(g * v).sum().to(total.dtype) for g, v in zip(gradients, vectors, strict=True)]).sum()
    products = torch.autograd.grad(slope * scale, inputs, create_graph=True)
    return slope.to(scale.dtype), None, None, *products


def add_penalty_gradient_(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    coefficients: Tensor,
    options: PenaltyOptions,
    scale: Tensor | None = None,
) -> Tensor:
    """Add the penalty's gradient to `gradients` in place, in one native call and one pass over memory.

    Args:
        weights: checked weights, on one device.
        gradients: a tensor a weight, of its shape and device; strides and dtype may differ.
        coefficients: float64 CPU tensor, a factor a weight.
        scale: a scalar on the weights' device that multiplies what is added, such as a GradScaler's scale.

    Returns:
        R(W) of each weight, ``(n,)``, without coefficients.
    """
    with torch.no_grad():
        if native.supports(weights[0].device):
            return native.operators.add_gradients_(  # type: ignore[no-any-return]
                weights, gradients, coefficients, scale, *options.native()
            )
        values, computed = penalties_and_gradients(weights, coefficients, options)
        for gradient, addition in zip(gradients, computed, strict=True):
            gradient.add_(addition if scale is None else addition * scale)
    return values


def penalties_and_gradients(
    weights: Sequence[Tensor], coefficients: Tensor, options: PenaltyOptions
) -> tuple[Tensor, list[Tensor]]:
    """R(W) of each weight, ``(n,)``, without coefficients, and new tensors with the gradients of the weighted sum.

    Args:
        weights: checked weights, on one device.
        coefficients: float64 CPU tensor, a factor a weight.
    """
    if native.supports(weights[0].device):
        with torch.no_grad():
            _, values, gradients = native.operators.value_and_gradients(weights, coefficients, *options.native())
            return values, gradients
    with torch.enable_grad():
        detached = [w.detach().requires_grad_() for w in weights]
        values = torch.stack([p.to(native.result_dtype(weights)) for p in reference.penalties(detached, options)])
        return values.detach(), list(torch.autograd.grad(values.dot(coefficients.to(values)), detached))


def penalties(weights: Sequence[Tensor], options: PenaltyOptions) -> Tensor:
    """R(W) of each weight, ``(n,)``, without coefficients and without gradient."""
    with torch.no_grad():
        if not native.supports(weights[0].device):
            return torch.stack(reference.penalties(weights, options))
        ones = torch.ones(len(weights), dtype=torch.float64, device="cpu")
        return native.operators.value(weights, ones, *options.native())[1]  # type: ignore[no-any-return]


def check_finite(
    total: Tensor,
    weights: Sequence[Tensor],
    coefficients: Tensor,
    options: PenaltyOptions,
    names: Sequence[str] | None,
) -> None:
    """Raise the `FloatingPointError` that names the weight and its exponent, unless `total` is finite."""
    if math.isfinite(total.item()):
        return
    with torch.no_grad():
        values = penalties(weights, options).double().cpu() * coefficients
        bad = values.isfinite().logical_not().nonzero().flatten().tolist()
        index = bad[0] if bad else int(values.abs().argmax())
        weight = weights[index].detach().double()
        name = weight_name(index, names)
        if not bool(weight.isfinite().all()):
            count = int(weight.isfinite().logical_not().sum())
            raise FloatingPointError(
                f"{name}: {count} of its {weight.numel()} weights are nan or inf, so the penalty is {total.item()}; "
                "look for the step that made them, such as a learning rate that is too high"
            )
        score = reference.scores(weight.flatten(0, 1), options)
        if options.exponentiate == "layer":
            exponent = score.mean() if options.reduction == "mean" else score.sum()
        else:
            exponent = score.max()
    raise FloatingPointError(
        f"{name}: the penalty is {total.item()} because its exponent reached {float(exponent):.1f}; "
        'set max_exponent (such as max_exponent=10.0), or use exponentiate="kernel" or None, '
        'or reduction="mean" where exponentiate="layer"'
    )


def _over_devices(
    weights: Sequence[Tensor],
    coefficients: Tensor,
    options: PenaltyOptions,
    names: Sequence[str] | None,
    error_if_nonfinite: bool | None,
) -> Tensor:
    """The sum over the devices that the weights are on, one native call each, on the first weight's device."""
    groups: dict[torch.device, list[int]] = {}
    for index, weight in enumerate(weights):
        groups.setdefault(weight.device, []).append(index)
    dtype = native.result_dtype(weights)
    totals = [
        penalty(
            [weights[i] for i in group],
            coefficients[group],
            options,
            [weight_name(i, names) for i in group],
            error_if_nonfinite,
        )
        for group in groups.values()
    ]
    return torch.stack([total.to(weights[0].device, dtype) for total in totals]).sum()


def _is_batched(tensor: Tensor) -> bool:
    """Whether autograd was asked for many gradients at once (``is_grads_batched``)."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor)


def _is_transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is running: the reference works under those,
    while an operator without a rule for them would be refused or, worse, taken for a constant."""
    if torch._C._functorch.maybe_current_level() is not None:
        return True
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def _is_one(tensor: Tensor) -> bool:
    """Whether a scalar is known to be 1; on other devices than the CPU it isn't, because reading it would wait."""
    return tensor.device.type == "cpu" and not isinstance(tensor, FakeTensor) and tensor.item() == 1
