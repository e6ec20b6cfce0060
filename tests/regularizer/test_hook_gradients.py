"""What the hook finds in `.grad`: other strides and dtypes, scaled, unscaled, infinite and clipped gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from skreg.regularizer import SmoothKernelRegularizer

from .conftest import STRENGTH, assert_same_parameters, criterion, penalty


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


@pytest.mark.parametrize("leaf", [False, True], ids=["with a graph", "a leaf"])
def test_gradients_that_require_gradients(model: nn.Module, batches: list[Tensor], leaf: bool) -> None:
    plain, before = copy.deepcopy(model), copy.deepcopy(model)
    for net, loss in ((model, criterion(model, batches[0])), (plain, criterion(plain, batches[0]) + penalty(plain))):
        parameters = list(net.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, create_graph=True)):
            parameter.grad = gradient.detach().requires_grad_() if leaf else gradient
    for net in (model, plain):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        if net is model:
            SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
        optimizer.step()
    assert_same_parameters(model, plain)
    assert not torch.equal(model.first.weight, before.first.weight)


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


@pytest.mark.filterwarnings("ignore:.*is beyond")
@pytest.mark.parametrize("element", [6.0, 30.0])  # whose exp overflows float32, and float64 too
@pytest.mark.parametrize("decoupled", [False, True])
def test_an_overflowing_penalty_stops_the_step_and_names_the_layer(decoupled: bool, element: float) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3))
    with torch.no_grad():
        model[1].weight.zero_()[0, 0, 1, 1] = element  # S = 4 * element**2 - element**2
    before = model[1].weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    SmoothKernelRegularizer(model).attach(optimizer, decoupled=decoupled)
    with pytest.raises(FloatingPointError, match=rf"1\.weight.*exponent reached {3 * element**2}"):
        optimizer.step()
    assert torch.equal(model[1].weight, before)
