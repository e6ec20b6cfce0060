from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from skreg import reference
from skreg.regularizer import SmoothKernelRegularizer


def weights_of(model: nn.Module) -> list[Tensor]:
    return [model.first.weight, model.second.weight]


OPTIONS = [
    {},
    {"normalize": "divide", "reduction": "mean"},
    {"normalize": None, "exponentiate": None, "connectivity": 2},
    {"exponentiate": "layer", "reduction": "mean", "max_exponent": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("strength", [0.3, -0.3, 0.0])
def test_value_and_gradient_are_those_of_the_reference(
    model: nn.Module, options: dict[str, object], strength: float
) -> None:
    reg = SmoothKernelRegularizer(model, strength, coefficients={"second.*": 2.5}, **options)
    value = reg()
    expected = strength * reference.smooth_kernel_penalty(weights_of(model), coefficients=[1.0, 2.5], **options)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(value, weights_of(model))
    expected_gradients = torch.autograd.grad(expected, weights_of(model))
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-11, atol=1e-12)


def test_the_value_is_a_differentiable_scalar_of_the_loss(model: nn.Module, batches: list[Tensor]) -> None:
    reg = SmoothKernelRegularizer(model, 0.1)
    (model(batches[0]).square().mean() + reg()).backward()
    assert model.first.weight.grad is not None
    assert model.head.weight.grad is not None


@pytest.mark.parametrize("decoupled", [False, True])
def test_named_parameters_in_place_of_a_model(model: nn.Module, decoupled: bool) -> None:
    pairs = copy.deepcopy(model)
    regularizers = []
    for net, source in ((model, model), (pairs, [("first.weight", pairs.first.weight), ("2", pairs.second.weight)])):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        regularizers.append(SmoothKernelRegularizer(source, 0.1))
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        regularizers[-1].attach(optimizer, decoupled=decoupled)
        optimizer.step()
    assert regularizers[1].names == ["first.weight", "2"]
    assert torch.equal(regularizers[0](), regularizers[1]())
    assert all(map(torch.equal, model.parameters(), pairs.parameters()))


def test_strength_is_live(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, 1e-3)
    before = reg()
    reg.strength = -2
    assert reg.strength == -2.0
    torch.testing.assert_close(reg(), before * -2000, rtol=1e-12, atol=0)


def test_a_graph_keeps_the_strength_it_was_built_with(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, 1.0)
    (expected,) = torch.autograd.grad(reg(), model.first.weight)
    value = reg()
    reg.strength = 5.0
    (found,) = torch.autograd.grad(value, model.first.weight)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("strength", "error"),
    [(float("nan"), ValueError), (float("inf"), ValueError), ("1", TypeError), (True, TypeError)],
)
def test_bad_strength(model: nn.Module, strength: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="strength: expected a"):
        SmoothKernelRegularizer(model, strength)
    reg = SmoothKernelRegularizer(model, 0.5)
    with pytest.raises(error, match="strength: expected a"):
        reg.strength = strength
    assert reg.strength == 0.5


def test_bad_options_are_named(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="normalize: expected one of"):
        SmoothKernelRegularizer(model, normalize="multiply")


def test_frozen_parameters_do_not_count(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, 1.0, coefficients={"second.*": 3.0})
    assert reg.trainable()[2] is reg.trainable()[2]  # nothing is picked and copied where all count
    both = reg()
    model.first.weight.requires_grad_(False)
    second_alone = reg()
    model.first.weight.requires_grad_(True)
    model.second.weight.requires_grad_(False)
    first_alone = reg()
    torch.testing.assert_close(first_alone + second_alone, both, rtol=1e-12, atol=0)
    assert 0 < first_alone < both
    model.first.weight.requires_grad_(False)
    assert reg().item() == 0.0
    assert not reg().requires_grad
    assert reg.names == ["first.weight", "second.weight"]


def test_a_model_may_be_cast_afterwards(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, 1.0)
    before = reg().item()
    model.float()
    assert reg().item() == pytest.approx(before, rel=1e-5)
    model.to(torch.bfloat16)
    reg().backward()
    assert model.first.weight.grad.dtype == torch.bfloat16


def test_a_deep_copy_belongs_to_the_copied_model(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, 1.0)
    model_copy, reg_copy = copy.deepcopy((model, reg))
    with torch.no_grad():
        model_copy.first.weight.zero_()
    assert reg_copy() != reg()


def test_overflow_names_the_layer(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, 1.0)
    with torch.no_grad():
        model.second.weight.copy_(torch.tensor([30.0, -30.0, 30.0, -30.0, 30.0]).expand(3, 4, 1, 5))
    with pytest.raises(FloatingPointError, match=r"second\.weight.*max_exponent"):
        reg()


def test_names_and_parameters(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, exclude="first.*")
    assert reg.names == ["second.weight"]
    ((name, parameter),) = reg.named_parameters()
    assert name == "second.weight"
    assert parameter is model.second.weight


def test_repr_tells_what_is_regularized(model: nn.Module) -> None:
    text = repr(SmoothKernelRegularizer(model, 1e-2, reduction="mean"))
    assert text.startswith("SmoothKernelRegularizer(2 layers, 20 kernels, strength=0.01, normalize='subtract'")
    assert "reduction='mean'" in text


def test_a_default_device_does_not_matter(model: nn.Module) -> None:
    expected = SmoothKernelRegularizer(model, 0.5)().item()
    with torch.device("meta"):
        reg = SmoothKernelRegularizer(model, 0.5)
        reg.strength = 0.5
        assert reg().item() == expected
        model.second.weight.requires_grad_(False)
        assert 0 < reg().item() < expected


def test_compiled_code_follows_the_strength_without_compiling_again(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, lambda step: [1.0, 0.5, -3.0, 0.25][step])
    graphs = itertools.count()

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        next(graphs)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(lambda: reg() * 2, fullgraph=True, backend=backend)
    for _ in range(3):
        torch.testing.assert_close(compiled(), reg() * 2, rtol=1e-12, atol=0)
        reg.step()
    for strength in (1.0, 0.5, -3.0):
        reg.strength = strength
        torch.testing.assert_close(compiled(), reg() * 2, rtol=1e-12, atol=0)
    assert next(graphs) == 1
    model.first.weight.requires_grad_(False)
    torch.testing.assert_close(compiled(), reg() * 2, rtol=1e-12, atol=0)
