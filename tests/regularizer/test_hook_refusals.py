"""Optimizers and loops that would lose the penalty or count it twice, and what is right instead."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from skreg.regularizer import SmoothKernelRegularizer

from .conftest import STRENGTH, assert_same_parameters, criterion, penalty


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


def test_steps_inside_the_backward_pass_are_refused(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer._overlap_with_ddp = True  # as ZeroRedundancyOptimizer keeps it
    with pytest.raises(ValueError, match=r"SGD with overlap_with_ddp=True steps inside the backward pass.*\+ reg\(\)"):
        SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)


def test_other_hooks_of_the_optimizer_are_left_alone(model: nn.Module) -> None:
    optimizer, calls = torch.optim.SGD(model.parameters(), lr=0.1), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    optimizer.step()
    assert calls == ["before", "after"]


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
    other = wrap(torch.optim.SGD(model.parameters(), lr=0.1))
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


@pytest.mark.parametrize("method", ["first_step", "second_step"])
def test_one_of_the_two_names_does_not_make_two_steps(model: nn.Module, method: str) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    setattr(optimizer, method, optimizer.step)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    optimizer.step()


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
