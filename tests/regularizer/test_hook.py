"""Attached to an optimizer, the penalty does what the loss form does by plain autograd in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from skreg.regularizer import SmoothKernelRegularizer

from .conftest import STRENGTH, assert_same_parameters, criterion, penalty


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
