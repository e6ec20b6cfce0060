"""Steps compiled by `torch.compile`: the loss form and the hook, against the loss form by plain autograd in float64."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from skreg import reference
from skreg.regularizer import SmoothKernelRegularizer

STRENGTH = 2.0  # a step beyond the largest stable one: compiled steps do not look, and so do not warn
SGD, ADAM = torch.optim.SGD, torch.optim.Adam


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def criterion(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def by_autograd(
    model: nn.Module, batches: list[Tensor], make: Callable[..., Optimizer], decoupled: bool = False
) -> nn.Module:
    """Where the loss form, or the formula of the decoupled step, leads a copy of the model."""
    net = copy.deepcopy(model)
    optimizer = make(net.parameters())
    weights = [net.first.weight, net.second.weight]
    for batch in batches:
        penalty = STRENGTH * reference.smooth_kernel_penalty(weights)
        (criterion(net, batch) + (0.0 if decoupled else penalty)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if decoupled:
            gradients = torch.autograd.grad(STRENGTH * reference.smooth_kernel_penalty(weights), weights)
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients):
                    weight -= optimizer.param_groups[0]["lr"] * gradient
    return net


def assert_same(found: nn.Module, expected: nn.Module, tolerance: float = 1e-11) -> None:
    for (name, parameter), other in zip(found.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def graph_breaks() -> list[str]:
    """Why the compiler left its graph, but for the break that torch itself has in every optimizer's step."""
    return [
        reason for reason in torch._dynamo.utils.counters["graph_break"] if "torch._dynamo.graph_break()" not in reason
    ]


BACKENDS = [
    "eager",
    pytest.param(
        "inductor", marks=pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no compiler")
    ),
]


class OneConvolution(nn.Module):
    """As the other tests' net and names, but with less for a C++ compiler to do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.first, self.second = model.first, model.second

    def forward(self, images: Tensor) -> Tensor:
        return self.first(images)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_loss_form(model: nn.Module, batches: list[Tensor], backend: str) -> None:
    net = OneConvolution(model)
    expected = by_autograd(net, batches[:3], lambda p: SGD(p, lr=0.1, momentum=0.9))
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    reg = SmoothKernelRegularizer(net, STRENGTH)
    loss = torch.compile(lambda batch: criterion(net, batch) + reg(), backend=backend, fullgraph=True)
    for batch in batches[:3]:
        loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_same(net, expected)


@pytest.mark.filterwarnings("error:.*is beyond")
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_optimizer_step_with_the_hook(
    model: nn.Module, batches: list[Tensor], backend: str, decoupled: bool
) -> None:
    def make(parameters: object) -> Optimizer:
        return SGD(parameters, lr=0.1, momentum=0.9)

    expected = by_autograd(model, batches[:3], make, decoupled)
    optimizer = make(model.parameters())
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer, decoupled=decoupled)
    step = torch.compile(optimizer.step, backend=backend)
    for batch in batches[:3]:
        criterion(model, batch).backward()
        step()
        optimizer.zero_grad()
    assert_same(model, expected)
    assert not graph_breaks()


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_capturable_adam(model: nn.Module, batches: list[Tensor], decoupled: bool) -> None:
    """It computes its bias corrections in float32."""
    expected = by_autograd(model, batches[:3], lambda p: ADAM(p, lr=0.01), decoupled)
    optimizer = ADAM(model.parameters(), lr=0.01, capturable=True)  # which on the CPU is for compiled steps alone
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer, decoupled=decoupled)
    step = torch.compile(optimizer.step, backend="eager")
    for batch in batches[:3]:
        criterion(model, batch).backward()
        step()
        optimizer.zero_grad()
    assert_same(model, expected, 1e-6)
