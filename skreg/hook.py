"""The penalty as part of an optimizer's step."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from skreg.options import PenaltyOptions
from skreg.penalty import add_penalty_gradient_, check_finite

if TYPE_CHECKING:
    from skreg.regularizer import SmoothKernelRegularizer

_LOSS_FORM = "add the penalty to the loss instead: loss = criterion(model(x), y) + reg(); loss.backward()"


def attach(regularizer: SmoothKernelRegularizer, optimizer: Optimizer, *, decoupled: bool = False) -> RemovableHandle:
    """Let every ``optimizer.step()`` minimise the penalty as well.

    It acts on the regularizer's parameters that belong to the optimizer and require a gradient at the time of
    the step, also when their ``.grad`` is None, as the loss form would: once a step however many backward
    passes were accumulated. It can be attached to several optimizers, each of which steps its own parameters.

    Coupled (default): ``strength * grad R``, taken at the weights before the step, is added to ``.grad`` just
    before the step. This equals ``loss + reg()`` except that gradient clipping done before the step does not
    see it. Under a GradScaler it is right with fused optimizers too, whose gradients are still scaled at that
    time.

    Decoupled, as AdamW's weight decay: the optimizer steps first, then ``w -= lr * strength * grad R(w)``,
    the gradient taken at the weights that the step has produced, with the learning rate of the parameter's
    group. The optimizer's momentum and scaling never see the penalty. Nothing happens where a GradScaler
    skips the step.

    Args:
        regularizer: whose penalty.
        optimizer: any `torch.optim.Optimizer` but LBFGS.
        decoupled: after the step instead of through the gradient.

    Returns:
        A handle: ``handle.remove()`` detaches, and so does leaving ``with handle:``.

    Raises:
        TypeError: `optimizer` is no torch optimizer.
        ValueError: none of the parameters belongs to it, it is LBFGS, or a group has no learning rate to
            decouple with.
        RuntimeError: the regularizer is attached to it already; at a step: a closure was given, which would
            replace the gradients after the penalty was added.
        FloatingPointError: at a step, on the CPU: the penalty is not finite. The coupled form raises before the
            weights change, but `.grad` holds what is not finite: call ``optimizer.zero_grad()`` before going on.
    """
    _check_optimizer(regularizer, optimizer, decoupled)
    if decoupled:
        return optimizer.register_step_post_hook(_DecoupledStep(regularizer))
    return optimizer.register_step_pre_hook(_GradientAddition(regularizer))


def _check_optimizer(regularizer: SmoothKernelRegularizer, optimizer: Optimizer, decoupled: bool) -> None:
    if not isinstance(optimizer, Optimizer) or not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise TypeError(
            f"expected a torch.optim.Optimizer, found {type(optimizer).__name__}; attach to the one it wraps"
        )
    if isinstance(optimizer, LBFGS):
        raise ValueError(f"LBFGS evaluates the loss several times a step and would lose the penalty; {_LOSS_FORM}")
    hooks = chain(optimizer._optimizer_step_pre_hooks.values(), optimizer._optimizer_step_post_hooks.values())
    if any(isinstance(hook, _Hook) and hook.regularizer is regularizer for hook in hooks):
        raise RuntimeError(
            "this regularizer is attached to this optimizer already: remove() its handle, or set reg.strength"
        )
    owned = _owned(optimizer)
    if not any(id(parameter) in owned for _, parameter in regularizer.named_parameters()):
        raise ValueError(
            f"none of the regularized parameters ({', '.join(regularizer.names[:10])}, ...) belongs to this "
            f"{type(optimizer).__name__}: build both from the same model"
        )
    if decoupled and not all("lr" in group for group in optimizer.param_groups):
        raise ValueError(
            f"decoupled=True needs a learning rate in every group, which {type(optimizer).__name__} has not"
        )


@dataclass(frozen=True, eq=False)
class _Hook:
    regularizer: SmoothKernelRegularizer


class _GradientAddition(_Hook):
    """A pre-hook: adds strength * grad R to `.grad`."""

    @torch.no_grad()
    def __call__(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # The optimizer itself is the first of args.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is not None:
            raise RuntimeError(
                "optimizer.step(closure) computes the gradients anew and would lose the attached penalty; "
                f"call step() without a closure, or {_LOSS_FORM}"
            )
        names, weights, coefficients = self.regularizer.trainable(_owned(optimizer))
        gradients = []
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            gradients.append(weight.grad)
        # GradScaler leaves the gradients of a fused optimizer scaled, and says by how much in this attribute.
        scale = getattr(optimizer, "grad_scale", None)
        _add_gradient_(names, weights, gradients, coefficients, self.regularizer.options, scale)


class _DecoupledStep(_Hook):
    """A post-hook: w -= lr * strength * grad R(w)."""

    @torch.no_grad()
    def __call__(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A fused optimizer skips its own step where this is not 0, and so must this one.
        found_inf = getattr(optimizer, "found_inf", None)
        taken = None if found_inf is None else (found_inf == 0).float()
        for group in optimizer.param_groups:
            owned = {id(parameter) for parameter in group["params"]}
            names, weights, coefficients = self.regularizer.trainable(owned)
            if not weights:
                continue
            # Buffers of their own, because a kernel's gradient needs all of the kernel as it was.
            steps = [torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) for w in weights]
            lr, scale = group["lr"], taken
            if isinstance(lr, Tensor):
                # It may live on another device: no reading of its value.
                scale = lr if taken is None else lr * taken.to(lr.device)
                lr = 1.0
            _add_gradient_(names, weights, steps, coefficients * -lr, self.regularizer.options, scale)
            torch._foreach_add_(weights, steps)


def _owned(optimizer: Optimizer) -> set[int]:
    """The identities of the optimizer's parameters, which may change between steps."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _add_gradient_(
    names: list[str],
    weights: list[Tensor],
    targets: list[Tensor],
    coefficients: Tensor,
    options: PenaltyOptions,
    scale: Tensor | None,
) -> None:
    """targets += scale * coefficient * grad R of each weight, in one native call for each device."""
    by_device: dict[torch.device, list[int]] = defaultdict(list)
    for index, weight in enumerate(weights):
        by_device[weight.device].append(index)
    for device, members in by_device.items():
        chosen = [weights[index] for index in members]
        factors = coefficients[torch.tensor(members, device="cpu")]
        values = add_penalty_gradient_(
            chosen,
            [targets[index] for index in members],
            factors,
            options,
            None if scale is None else scale.to(device, non_blocking=True),
        )
        if device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere it would wait for the device
            check_finite(values.double().dot(factors), chosen, factors, options, [names[i] for i in members])
