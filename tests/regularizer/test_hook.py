from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from skreg import reference
from skreg.regularizer import SmoothKernelRegularizer

STRENGTH = 0.2


def criterion(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def penalty(model: nn.Module, strength: float = STRENGTH) -> Tensor:
    """What `SmoothKernelRegularizer(model, strength)` stands for, by autograd alone."""
    return strength * reference.smooth_kernel_penalty([model.first.weight, model.second.weight])


def assert_same_parameters(found: nn.Module, expected: nn.Module, tolerance: float = 1e-11) -> None:
    named = dict(found.named_parameters())
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(
            named[name], parameter, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def loss_form(model: nn.Module, batch: Tensor, maximize: bool) -> Tensor:
    """What the hook stands for: who maximizes an objective subtracts the penalty."""
    return criterion(model, batch) + (-penalty(model) if maximize else penalty(model))


SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.1, foreach=False),
    "sgd nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2, foreach=False),
    "sgd foreach": lambda p: SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "sgd fused": lambda p: SGD(p, lr=0.1, momentum=0.9, fused=True),
    "sgd maximize": lambda p: SGD(p, lr=0.01, maximize=True),
    "sgd fused maximize": lambda p: SGD(p, lr=0.01, maximize=True, fused=True),
    "adam": lambda p: ADAM(p, lr=0.01, foreach=False),
    "adam foreach": lambda p: ADAM(p, lr=0.01, weight_decay=0.1, foreach=True),
    "adam fused maximize": lambda p: ADAM(p, lr=0.01, fused=True, maximize=True),
    "adamw": lambda p: ADAMW(p, lr=0.01, weight_decay=0.1, foreach=False),
    "adamw foreach": lambda p: ADAMW(p, lr=0.01, amsgrad=True, foreach=True),
    "adamw foreach maximize": lambda p: ADAMW(p, lr=0.01, foreach=True, maximize=True),
    "adamw fused": lambda p: ADAMW(p, lr=0.01, fused=True),
    "adagrad fused": lambda p: torch.optim.Adagrad(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("set_to_none", [True, False])
def test_equals_the_loss_form(
    model: nn.Module, batches: list[Tensor], make: Callable[..., Optimizer], set_to_none: bool
) -> None:
    plain = copy.deepcopy(model)
    optimizer, plain_optimizer = make(list(model.parameters())), make(list(plain.parameters()))
    maximize = optimizer.defaults.get("maximize", False)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    for batch in batches:
        criterion(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
        loss_form(plain, batch, maximize).backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad(set_to_none=set_to_none)
    assert_same_parameters(model, plain)


@pytest.mark.parametrize("decoupled", [False, True])
def test_maximizing_groups_beside_others_lower_the_penalty_as_well(model: nn.Module, decoupled: bool) -> None:
    """A group goes up its objective, and yet its penalty falls; without a backward pass both forms do the same."""
    plain = copy.deepcopy(model)
    optimizer = SGD(
        [{"params": model.first.parameters(), "maximize": True}, {"params": model.second.parameters()}], 0.1
    )
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer, decoupled=decoupled)
    optimizer.step()
    penalty(plain).backward()
    SGD([plain.first.weight, plain.second.weight], lr=0.1).step()
    assert_same_parameters(model, plain)


def test_changes_the_result(model: nn.Module, batches: list[Tensor]) -> None:
    plain = copy.deepcopy(model)
    for net in (model, plain):
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        if net is model:
            SmoothKernelRegularizer(net, STRENGTH).attach(optimizer)
        for batch in batches:
            optimizer.zero_grad()
            criterion(net, batch).backward()
            optimizer.step()
    assert penalty(model) < 0.99 * penalty(plain)


def test_counts_once_a_step_under_gradient_accumulation(model: nn.Module, batches: list[Tensor]) -> None:
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    for batch in batches[:3]:
        criterion(model, batch).backward()
    optimizer.step()
    plain_optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    (sum(criterion(plain, batch) for batch in batches[:3]) + penalty(plain)).backward()
    plain_optimizer.step()
    assert_same_parameters(model, plain)


def test_parameters_without_a_gradient_are_regularized(model: nn.Module) -> None:
    expected = torch.autograd.grad(penalty(model), model.second.weight)[0]
    before = model.second.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    optimizer.step()
    torch.testing.assert_close(model.second.weight, before - 0.5 * expected, rtol=1e-12, atol=1e-12)
    assert model.head.weight.grad is None


@pytest.mark.parametrize("decoupled", [False, True])
def test_frozen_and_foreign_parameters_are_left_alone(model: nn.Module, decoupled: bool) -> None:
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD([*model.second.parameters(), *model.head.parameters()], lr=0.5)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer, decoupled=decoupled)
    model.second.weight.requires_grad_(False)
    optimizer.step()
    assert_same_parameters(model, before)
    model.second.weight.requires_grad_(True)
    optimizer.step()
    assert not torch.equal(model.second.weight, before.second.weight)
    assert torch.equal(model.first.weight, before.first.weight)
    assert model.first.weight.grad is None


def test_parameters_added_later_are_regularized(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.second.parameters(), lr=0.5)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    optimizer.add_param_group({"params": list(model.first.parameters()), "lr": 0.1})
    before = model.first.weight.detach().clone()
    (gradient,) = torch.autograd.grad(penalty(model), model.first.weight)
    optimizer.step()
    torch.testing.assert_close(model.first.weight, before - 0.1 * gradient, rtol=1e-12, atol=1e-12)


def test_two_optimizers_share_a_regularizer(model: nn.Module, batches: list[Tensor]) -> None:
    plain = copy.deepcopy(model)
    reg = SmoothKernelRegularizer(model, STRENGTH)
    first = torch.optim.SGD(model.first.parameters(), lr=0.1)
    second = torch.optim.SGD(model.second.parameters(), lr=0.2)
    reg.attach(first)
    reg.attach(second)
    criterion(model, batches[0]).backward()
    first.step()
    second.step()
    (criterion(plain, batches[0]) + penalty(plain)).backward()
    torch.optim.SGD(
        [{"params": plain.first.parameters(), "lr": 0.1}, {"params": plain.second.parameters(), "lr": 0.2}]
    ).step()
    assert_same_parameters(model, plain)


def test_strength_is_live_and_a_removed_hook_is_gone(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = SmoothKernelRegularizer(model, STRENGTH)
    handle = reg.attach(optimizer)
    for strength in (1.0, -0.5, 0.0):
        reg.strength = strength
        optimizer.zero_grad()
        (expected,) = torch.autograd.grad(penalty(model, strength), model.first.weight)
        optimizer.step()
        torch.testing.assert_close(model.first.weight.grad, expected, rtol=1e-11, atol=1e-12)
    handle.remove()
    optimizer.zero_grad()
    optimizer.step()
    assert model.first.weight.grad is None
    with reg.attach(optimizer):
        optimizer.step()
        assert model.first.weight.grad is not None
    optimizer.zero_grad()
    optimizer.step()
    assert model.first.weight.grad is None


@pytest.mark.parametrize("layout", ["channels_last", "transposed"])
def test_gradients_of_other_strides(model: nn.Module, layout: str) -> None:
    (expected,) = torch.autograd.grad(penalty(model), model.first.weight)
    weight = model.first.weight
    initial = torch.randn(3, 3, 4, 2, dtype=torch.float64).permute(2, 3, 0, 1)
    if layout == "channels_last":
        initial = initial.contiguous(memory_format=torch.channels_last)
    weight.grad = initial.clone()
    assert weight.grad.stride() != weight.stride()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    optimizer.step()
    torch.testing.assert_close(weight.grad, initial + expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_another_dtype(model: nn.Module) -> None:
    model.to(torch.bfloat16)
    (expected,) = torch.autograd.grad(penalty(model), model.first.weight)
    model.first.weight.grad_dtype = torch.float32
    model.first.weight.grad = torch.ones(4, 2, 3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    optimizer.step()
    assert model.first.weight.grad.dtype == torch.float32
    torch.testing.assert_close(model.first.weight.grad, 1 + expected.float(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscaled by the user"])
@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
@pytest.mark.parametrize("decoupled", [False, True], ids=["coupled", "decoupled"])
def test_grad_scaler(model: nn.Module, batches: list[Tensor], fused: bool, unscale: bool, decoupled: bool) -> None:
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    plain_optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer, decoupled=decoupled)
    SmoothKernelRegularizer(plain, STRENGTH).attach(plain_optimizer, decoupled=decoupled)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    for batch in batches:
        scaler.scale(criterion(model, batch)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        criterion(plain, batch).backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad()
    assert scaler.get_scale() == 2.0**15
    assert_same_parameters(model, plain)


@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
@pytest.mark.parametrize("decoupled", [False, True], ids=["coupled", "decoupled"])
@pytest.mark.parametrize("tensor_lr", [False, True], ids=["", "tensor lr"])
def test_a_skipped_step_changes_nothing(
    model: nn.Module, batches: list[Tensor], fused: bool, decoupled: bool, tensor_lr: bool
) -> None:
    lr = torch.tensor(0.1) if tensor_lr else 0.1
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=fused, foreach=False)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer, decoupled=decoupled)
    before = copy.deepcopy(model)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(criterion(model, batches[0])).backward()
    model.first.weight.grad[0, 0, 0, 0] = float("inf")
    scaler.step(optimizer)
    assert_same_parameters(model, before, 0.0)
    scaler.update()
    optimizer.zero_grad()
    scaler.scale(criterion(model, batches[0])).backward()
    scaler.step(optimizer)
    assert not torch.equal(model.first.weight, before.first.weight)


@pytest.mark.parametrize("tensor_lr", [False, True])
def test_decoupled_formula(model: nn.Module, batches: list[Tensor], tensor_lr: bool) -> None:
    """The optimizer steps first; the gradient is that at its result; each group has its learning rate."""
    plain = copy.deepcopy(model)

    def groups(net: nn.Module) -> list[dict[str, object]]:
        rates = [torch.tensor(lr, dtype=torch.float64) if tensor_lr else lr for lr in (0.01, 0.05)]
        return [
            {"params": [*net.first.parameters(), *net.head.parameters()], "lr": rates[0]},
            {"params": [*net.second.parameters(), *net.pointwise.parameters()], "lr": rates[1]},
        ]

    optimizer = torch.optim.AdamW(groups(model), foreach=False)
    plain_optimizer = torch.optim.AdamW(groups(plain), foreach=False)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer, decoupled=True)
    for batch in batches:
        criterion(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        criterion(plain, batch).backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad()
        weights = [plain.first.weight, plain.second.weight]
        gradients = torch.autograd.grad(penalty(plain), weights)
        with torch.no_grad():
            weights[0] -= 0.01 * gradients[0]
            weights[1] -= 0.05 * gradients[1]
    assert_same_parameters(model, plain)


def test_decoupled_follows_a_scheduler(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.1)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer, decoupled=True)
    for lr in (1.0, 0.1):
        before = model.first.weight.detach().clone()
        (gradient,) = torch.autograd.grad(penalty(model), model.first.weight)
        optimizer.step()
        scheduler.step()
        torch.testing.assert_close(model.first.weight, before - lr * gradient, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("decoupled", [False, True])
def test_attaching_twice_is_an_error(model: nn.Module, decoupled: bool) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = SmoothKernelRegularizer(model, STRENGTH)
    handle = reg.attach(optimizer, decoupled=decoupled)
    for again in (False, True):
        with pytest.raises(RuntimeError, match="attached to this optimizer already"):
            reg.attach(optimizer, decoupled=again)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    handle.remove()
    reg.attach(optimizer)


def test_closures_are_refused(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    for arguments, options in (((lambda: 0.0,), {}), ((), {"closure": lambda: 0.0})):
        with pytest.raises(RuntimeError, match=r"closure.*loss = criterion\(model\(x\), y\) \+ reg\(\)"):
            optimizer.step(*arguments, **options)
    optimizer.step(None)


def test_lbfgs_is_refused_and_pointed_to_the_loss_form(model: nn.Module) -> None:
    optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(ValueError, match=r"LBFGS.*\+ reg\(\)"):
        SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)


def test_an_optimizer_of_other_parameters(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"none of the regularized parameters \(first\.weight.*belongs to this SGD"):
        SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)


class Wrapper(Optimizer):
    """As some libraries wrap an optimizer: a torch optimizer by its class, without anything of one."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups


class Lookalike:
    def __init__(self, optimizer: Optimizer) -> None:
        self.param_groups = optimizer.param_groups
        self._optimizer_step_pre_hooks = self._optimizer_step_post_hooks = {}


@pytest.mark.parametrize("wrap", [Wrapper, Lookalike, lambda optimizer: optimizer.param_groups])
def test_something_else_than_an_optimizer(model: nn.Module, wrap: Callable[[Optimizer], object]) -> None:
    other = wrap(SGD(model.parameters(), lr=0.1))
    message = rf"expected a torch\.optim\.Optimizer, found {type(other).__name__}; attach to the one it wraps"
    with pytest.raises(TypeError, match=message):
        SmoothKernelRegularizer(model, STRENGTH).attach(other)


def test_decoupled_needs_a_learning_rate(model: nn.Module) -> None:
    class Plain(Optimizer):
        def __init__(self, params: object) -> None:
            super().__init__(params, {})

        def step(self) -> None:
            pass

    optimizer = Plain(model.parameters())
    reg = SmoothKernelRegularizer(model, STRENGTH)
    with pytest.raises(ValueError, match="needs a learning rate in every group, which Plain has not"):
        reg.attach(optimizer, decoupled=True)
    reg.attach(optimizer)
    optimizer.step()
    assert model.first.weight.grad is not None


@pytest.mark.parametrize("decoupled", [False, True])
def test_an_overflowing_penalty_stops_the_step_and_names_the_layer(decoupled):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3))
    with torch.no_grad():
        model[1].weight.zero_()[0, 0, 1, 1] = 6.0  # S = 4 * 36 - 36
    before = model[1].weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    SmoothKernelRegularizer(model).attach(optimizer, decoupled=decoupled)
    with pytest.raises(FloatingPointError, match=r"1\.weight.*exponent reached 108\.0"):
        optimizer.step()
    assert torch.equal(model[1].weight, before)


class TwoSteps(Optimizer):
    """Sharpness-aware minimization as its users have it: up to the worst neighbour, then the base optimizer's step."""

    def __init__(self, params: object, rho: float = 0.05) -> None:
        super().__init__(params, {"rho": rho, "lr": 0.1})
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=0.1, momentum=0.9)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        self.before = {p: p.clone() for group in self.param_groups for p in group["params"]}
        norm = torch.stack([p.grad.norm() for p in self.before]).norm()
        for p in self.before:
            p += 0.05 * p.grad / norm
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for p, value in self.before.items():
            p.copy_(value)
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure: object = None) -> None:
        raise NotImplementedError


def test_optimizers_of_two_steps_are_refused_and_right_through_their_base(
    model: nn.Module, batches: list[Tensor]
) -> None:
    """The penalty's gradient is taken at the weights, the loss's at their worst neighbour."""
    plain = copy.deepcopy(model)
    optimizer, plain_optimizer = TwoSteps(model.parameters()), TwoSteps(plain.parameters())
    reg = SmoothKernelRegularizer(model, STRENGTH)
    with pytest.raises(ValueError, match=r"TwoSteps takes two steps.*base_optimizer.*\+ reg\(\).*in both passes"):
        reg.attach(optimizer)
    alone = TwoSteps(copy.deepcopy(model).parameters())
    del alone.base_optimizer
    with pytest.raises(ValueError, match=r"would lose the penalty; add the penalty to the loss"):
        reg.attach(alone)
    reg.attach(optimizer.base_optimizer)
    for batch in batches:
        criterion(model, batch).backward()
        optimizer.first_step()
        criterion(model, batch).backward()
        optimizer.second_step()
        weights = [plain.first.weight, plain.second.weight]
        additions = torch.autograd.grad(penalty(plain), weights)
        criterion(plain, batch).backward()
        plain_optimizer.first_step()
        criterion(plain, batch).backward()
        for weight, addition in zip(weights, additions):
            weight.grad += addition
        plain_optimizer.second_step()
    assert_same_parameters(model, plain)


def test_differentiable_optimizers_are_refused(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = SmoothKernelRegularizer(model, STRENGTH)
    reg.attach(optimizer)
    optimizer.param_groups[0]["differentiable"] = True
    with pytest.raises(ValueError, match=r"differentiable=True: .*\+ reg\(\)"):
        optimizer.step()
    with pytest.raises(ValueError, match=r"differentiable=True: .*\+ reg\(\)"):
        reg.attach(torch.optim.Adam(model.parameters(), differentiable=True))


def test_a_parameter_of_two_optimizers(model: nn.Module, batches: list[Tensor]) -> None:
    """Attached to the one that steps first, both see the penalty once, as in the loss form; to both is an error."""
    plain = copy.deepcopy(model)
    optimizers, plain_optimizers = (
        [torch.optim.SGD(net.parameters(), lr=0.1), torch.optim.Adam(net.first.parameters(), lr=0.01)]
        for net in (model, plain)
    )
    reg = SmoothKernelRegularizer(model, STRENGTH)
    handle = reg.attach(optimizers[0])
    with pytest.raises(ValueError, match=r"first\.weight: belongs to two optimizers"):
        reg.attach(optimizers[1])
    for batch in batches:
        criterion(model, batch).backward()
        (criterion(plain, batch) + penalty(plain)).backward()
        for optimizer in (*optimizers, *plain_optimizers):
            optimizer.step()
        for optimizer in (*optimizers, *plain_optimizers):
            optimizer.zero_grad()
    assert_same_parameters(model, plain)
    handle.remove()
    reg.attach(optimizers[1])
    third = torch.optim.SGD(model.second.parameters(), lr=0.1)
    reg.attach(third)
    third.add_param_group({"params": [model.first.weight]})
    with pytest.raises(ValueError, match=r"first\.weight: belongs to two optimizers"):
        third.step()


@pytest.mark.parametrize("scaled", [False, True])
def test_clipping_sees_the_gradient_of_the_data_alone(model: nn.Module, batches: list[Tensor], scaled: bool) -> None:
    """The order: unscale, clip, then the penalty is added by the step."""
    plain = copy.deepcopy(model)
    optimizer, plain_optimizer = (torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in (model, plain))
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    for batch in batches:
        optimizer.zero_grad()
        scaler.scale(criterion(model, batch)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        scaler.step(optimizer)
        scaler.update()
        plain_optimizer.zero_grad()
        criterion(plain, batch).backward()
        assert nn.utils.clip_grad_norm_(plain.parameters(), 1e-3) > 1e-3
        penalty(plain).backward()
        plain_optimizer.step()
    assert_same_parameters(model, plain)


@pytest.mark.parametrize("decoupled", [False, True])
def test_the_bits_of_a_step_do_not_depend_on_the_threads(decoupled: bool) -> None:
    torch.manual_seed(0)
    start = nn.Conv2d(64, 80, 3)  # several chunks of work
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            model = copy.deepcopy(start)
            optimizer = SGD(model.parameters(), lr=0.1)
            SmoothKernelRegularizer(model, STRENGTH).attach(optimizer, decoupled=decoupled)
            optimizer.step()
            found.append(model.weight.detach())
    finally:
        torch.set_num_threads(before)
    assert not torch.equal(found[0], start.weight)
    assert all(torch.equal(found[0], other) for other in found[1:])
