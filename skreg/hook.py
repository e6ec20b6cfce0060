"""The penalty as part of an optimizer's step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from skreg.options import PenaltyOptions
from skreg.penalty import add_penalty_gradient_, check_finite, penalties_and_gradients
from skreg.sharding import Part, local, parts
from skreg.stability import step_factor, warn_if_unstable

if TYPE_CHECKING:
    from skreg.regularizer import SmoothKernelRegularizer

Group = Mapping[str, Any]

_LOSS_FORM = "add the penalty to the loss instead: loss = criterion(model(x), y) + reg(); loss.backward()"


def attach(regularizer: SmoothKernelRegularizer, optimizer: Optimizer, *, decoupled: bool = False) -> RemovableHandle:
    """Let every ``optimizer.step()`` minimise the penalty as well.

    It acts on the regularizer's parameters that belong to the optimizer and require a gradient at the time of
    the step, also when their ``.grad`` is None, as the loss form would: once a step however many backward
    passes were accumulated. It can be attached to several optimizers, each of which steps its own parameters.

    Coupled (default): ``strength * grad R``, taken at the weights before the step, is added to ``.grad`` just
    before the step, and subtracted in groups with ``maximize=True``, where the loss form is ``objective -
    reg()``. This equals ``loss + reg()`` except that gradient clipping done before the step does not see it.
    Under a GradScaler it is right with fused optimizers too, whose gradients are still scaled at that time.

    Decoupled, as AdamW's weight decay: the optimizer steps first, then ``w -= lr * strength * grad R(w)``,
    the gradient taken at the weights that the step has produced, with the learning rate of the parameter's
    group, whatever ``maximize`` says. The optimizer's momentum and scaling never see the penalty. Nothing
    happens where a GradScaler skips the step.

    Weights sharded by `fully_shard` are stepped shard by shard, without communication unless
    ``exponentiate="layer"``.

    At its first step it warns if ``lr * strength`` is beyond the largest stable step (`skreg.stability`): with
    SGD, and decoupled with every optimizer. Compiled steps are not checked.

    Args:
        regularizer: whose penalty.
        optimizer: any `torch.optim.Optimizer` that computes its step from ``.grad`` once; not LBFGS, and of an
            optimizer of two steps (SAM) its base optimizer.
        decoupled: after the step instead of through the gradient.

    Returns:
        A handle: ``handle.remove()`` detaches, and so does leaving ``with handle:``.

    Raises:
        TypeError: `optimizer` is no torch optimizer.
        ValueError: none of the parameters belongs to it, one of them belongs to another optimizer that the
            regularizer is attached to, a weight is computed by a parametrization or pruning, or the optimizer is of
            a kind that would lose the penalty: LBFGS, SAM, ``differentiable=True``, ZeroRedundancyOptimizer with
            ``overlap_with_ddp=True``; or a group has no learning rate to decouple with.
        RuntimeError: the regularizer is attached to it already; at a step: a closure was given, which would
            replace the gradients after the penalty was added.
        FloatingPointError: at a step, on the CPU: the penalty is not finite. The coupled form raises before the
            weights change, but `.grad` holds what is not finite: call ``optimizer.zero_grad()`` before going on.

    Example:
        >>> import skreg
        >>> model = torch.nn.Conv2d(1, 1, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handle = attach(skreg.SmoothKernelRegularizer(model, strength=0.5), optimizer)
        >>> optimizer.step()    # no backward pass: the penalty alone
        >>> handle.remove()
    """
    check_optimizer(regularizer, optimizer, decoupled)
    regularizer.optimizers.add(optimizer)
    if decoupled:
        return optimizer.register_step_post_hook(_DecoupledStep(regularizer))
    return optimizer.register_step_pre_hook(GradientAddition(regularizer))


def check_optimizer(regularizer: SmoothKernelRegularizer, optimizer: Optimizer, decoupled: bool) -> None:
    """Refuse, as `attach` documents, what would lose the penalty or count it twice."""
    if not isinstance(optimizer, Optimizer) or not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise TypeError(
            f"expected a torch.optim.Optimizer, found {type(optimizer).__name__}; attach to the one it wraps"
        )
    _check_kind(optimizer)
    if _is_attached(regularizer, optimizer):
        raise RuntimeError(
            "this regularizer is attached to this optimizer already: remove() its handle, or set reg.strength"
        )
    owned = _owned(optimizer)
    _check_step(regularizer, optimizer, owned)
    if not any(id(parameter) in owned for _, parameter in regularizer.named_parameters()):
        raise ValueError(
            f"none of the regularized parameters ({', '.join(regularizer.names[:10])}, ...) belongs to this "
            f"{type(optimizer).__name__}: build both from the same model, after fully_shard"
        )
    if decoupled and not all("lr" in group for group in optimizer.param_groups):
        raise ValueError(
            f"decoupled=True needs a learning rate in every group, which {type(optimizer).__name__} has not"
        )


def _check_kind(optimizer: Optimizer) -> None:
    """Refuse optimizers whose step is not one step from `.grad`."""
    name = type(optimizer).__name__
    if isinstance(optimizer, LBFGS):
        raise ValueError(f"LBFGS evaluates the loss several times a step and would lose the penalty; {_LOSS_FORM}")
    if hasattr(optimizer, "first_step") and hasattr(optimizer, "second_step"):
        base = getattr(optimizer, "base_optimizer", None)
        hint = "attach to its base_optimizer, whose step sees the penalty once, at the weights, or "
        raise ValueError(
            f"{name} takes two steps, each after a backward pass, and would lose the penalty; "
            f"{hint if isinstance(base, Optimizer) else ''}{_LOSS_FORM}, in both passes"
        )
    if getattr(optimizer, "_overlap_with_ddp", False):
        raise ValueError(f"{name} with overlap_with_ddp=True steps inside the backward pass; {_LOSS_FORM}")


def _check_step(regularizer: SmoothKernelRegularizer, optimizer: Optimizer, owned: Mapping[int, Group]) -> None:
    """Refuse what may have changed since the last step: groups added, weights parametrized or pruned."""
    if any(group.get("differentiable") for group in optimizer.param_groups):
        raise ValueError(f"differentiable=True: the hook's addition is not part of the graph; {_LOSS_FORM}")
    if computed := regularizer.computed():
        raise ValueError(
            f"{', '.join(computed)}: computed by a parametrization or a pruning mask, so no optimizer has it as a "
            f"parameter; {_LOSS_FORM}. Or exclude it from the regularizer"
        )
    others = [o for o in regularizer.optimizers if o is not optimizer and _is_attached(regularizer, o)]
    if not others:
        return
    elsewhere: set[int] = set().union(*map(_owned, others))
    for name, parameter in regularizer.named_parameters():
        if id(parameter) in elsewhere and id(parameter) in owned:
            raise ValueError(
                f"{name}: belongs to two optimizers that this regularizer is attached to, so its penalty would count "
                "twice: attach to the one that steps first alone, and the other finds the penalty in .grad"
            )


def _is_attached(regularizer: SmoothKernelRegularizer, optimizer: Optimizer) -> bool:
    hooks = chain(optimizer._optimizer_step_pre_hooks.values(), optimizer._optimizer_step_post_hooks.values())
    return any(isinstance(hook, _Hook) and hook.regularizer is regularizer for hook in hooks)


class _Hook:
    def __init__(self, regularizer: SmoothKernelRegularizer) -> None:
        self.regularizer = regularizer
        self.checked = False  # whether the length of the step was looked at

    def _check_stability(
        self,
        names: Sequence[str],
        weights: Sequence[Tensor],
        coefficients: Tensor,
        groups: Sequence[Group],
        factors: Sequence[float],
    ) -> None:
        """Once, at the first step with weights, warn of steps that are too long. Reading them waits for the device."""
        if self.checked or not weights or torch.compiler.is_compiling():
            return
        self.checked = True
        if not all(map(math.isinf, factors)) and not _is_capturing(weights):
            for part in parts(weights, coefficients, self.regularizer.options, names):
                members = part.members
                rates = [float(groups[i]["lr"]) for i in members]
                steps = [rate * c for rate, c in zip(rates, part.coefficients.tolist(), strict=True)]
                chosen = [factors[i] for i in members]
                warn_if_unstable([names[i] for i in members], part.weights, steps, chosen, part.options)


class GradientAddition(_Hook):
    """A pre-hook: adds strength * grad R to `.grad`."""

    def __call__(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # The optimizer itself is the first of args.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is not None:
            raise RuntimeError(
                "optimizer.step(closure) computes the gradients anew and would lose the attached penalty; "
                f"call step() without a closure, or {_LOSS_FORM}"
            )
        # GradScaler leaves the gradients of a fused optimizer scaled, and says by how much in this attribute.
        self.add(optimizer, getattr(optimizer, "grad_scale", None))

    def add(self, optimizer: Optimizer, scale: Tensor | None = None) -> None:
        """Do it now, for a loop that computes the gradients inside of its step.

        Args:
            optimizer: whose parameters.
            scale: what the gradients in `.grad` are still multiplied by; None for 1.
        """
        owned = _owned(optimizer)
        _check_step(self.regularizer, optimizer, owned)
        names, weights, coefficients = self.regularizer.trainable(owned)
        groups = [owned[id(weight)] for weight in weights]
        self._check_stability(names, weights, coefficients, groups, [step_factor(optimizer, g) for g in groups])
        gradients = []
        for name, weight in zip(names, weights, strict=True):
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            _check_gradient(name, weight, weight.grad)
            gradients.append(weight.grad)
        maximized = [bool(group.get("maximize")) for group in groups]
        if any(maximized):  # such a step goes up the gradient, and the penalty is to fall all the same
            coefficients = coefficients * torch.tensor([-1.0 if m else 1.0 for m in maximized], device="cpu")
        for part in _calls(names, weights, coefficients, self.regularizer.options):
            targets = [local(gradients[index]) for index in part.members]
            here = None if scale is None else scale.to(part.weights[0].device, non_blocking=True)
            values = add_penalty_gradient_(part.weights, targets, part.coefficients, part.options, here)
            _check_values(values, part, names)


class _DecoupledStep(_Hook):
    """A post-hook: w -= lr * strength * grad R(w)."""

    @torch.no_grad()
    def __call__(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        owned = _owned(optimizer)
        _check_step(self.regularizer, optimizer, owned)
        # A fused optimizer skips its own step where this is not 0, and so must this one.
        found_inf = getattr(optimizer, "found_inf", None)
        taken = None if found_inf is None else (found_inf == 0).float()
        if not self.checked:
            names, weights, coefficients = self.regularizer.trainable(owned)
            groups = [owned[id(weight)] for weight in weights]
            self._check_stability(names, weights, coefficients, groups, [1.0] * len(groups))
        for group in optimizer.param_groups:
            names, weights, coefficients = self.regularizer.trainable({id(parameter) for parameter in group["params"]})
            lr, scale = group["lr"], taken
            if isinstance(lr, Tensor):
                # It may live on another device: no reading of its value.
                scale = lr if taken is None else lr * taken.to(lr.device)
                lr = 1.0
            _descend(names, weights, coefficients * lr, self.regularizer.options, scale)


def _descend(
    names: Sequence[str], weights: Sequence[Tensor], steps: Tensor, options: PenaltyOptions, scale: Tensor | None
) -> None:
    """weights -= scale * step * grad R, unless the penalty of one of them overflows (on the CPU)."""
    for part in _calls(names, weights, -steps, options):
        values, moves = penalties_and_gradients(part.weights, part.coefficients, part.options)
        _check_values(values, part, names)
        if scale is not None:
            torch._foreach_mul_(moves, scale.to(part.weights[0].device, non_blocking=True))
        torch._foreach_add_(part.weights, moves)


def _owned(optimizer: Optimizer) -> dict[int, Group]:
    """The groups of the optimizer's parameters by identity; they may change between steps."""
    return {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}


def _check_gradient(name: str, weight: Tensor, gradient: Tensor) -> None:
    """Refuse a gradient that is spread over processes in another way than its weight."""
    expected, found = getattr(weight, "placements", None), getattr(gradient, "placements", None)
    if expected != found:
        raise ValueError(f"{name}: its gradient has placements {found}, expected those of the weight, {expected}")


def _is_capturing(weights: Sequence[Tensor]) -> bool:
    """Whether a CUDA graph records what happens, so that nothing may be read."""
    return any(weight.device.type == "cuda" for weight in weights) and torch.cuda.is_current_stream_capturing()


def _calls(
    names: Sequence[str], weights: Sequence[Tensor], coefficients: Tensor, options: PenaltyOptions
) -> Iterator[Part]:
    """What this process works on, a part for each native call: weights that are on one device and split alike."""
    for part in parts(weights, coefficients, options, names):
        by_device: dict[torch.device, list[int]] = defaultdict(list)
        for index, weight in enumerate(part.weights):
            by_device[weight.device].append(index)
        for chosen in by_device.values():
            yield replace(
                part,
                members=[part.members[index] for index in chosen],
                weights=[part.weights[index] for index in chosen],
                coefficients=part.coefficients[torch.tensor(chosen, device="cpu")],
            )


def _check_values(values: Tensor, part: Part, names: Sequence[str]) -> None:
    """Raise the `FloatingPointError` that names a weight, on the CPU: elsewhere it would wait for the device."""
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        total = values.double().dot(part.coefficients)
        check_finite(total, part.weights, part.coefficients, part.options, [names[index] for index in part.members])
