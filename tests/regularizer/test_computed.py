"""Weights that a module computes from others, shares, averages or replaces."""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from skreg import reference
from skreg.regularizer import SmoothKernelRegularizer

STRENGTH = 0.2


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(-1)) / 2


def soft_cut(module: nn.Module) -> None:
    prune.random_unstructured(module, "weight", amount=0.5)


COMPUTED: dict[str, Callable[[nn.Module], object]] = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "own parametrization": lambda module: parametrize.register_parametrization(module, "weight", Symmetric()),
    "pruned": soft_cut,
}


@pytest.mark.parametrize("compute", COMPUTED.values(), ids=COMPUTED.keys())
def test_the_loss_form_regularizes_the_weight_in_use(
    model: nn.Module, batches: list[Tensor], compute: Callable[[nn.Module], object]
) -> None:
    """The oracle takes the weight that the forward pass used, from a hook inside it."""
    plain = copy.deepcopy(model)
    for net in (model, plain):
        torch.manual_seed(3)
        compute(net.first)
    used: dict[str, Tensor] = {}
    plain.first._conv_forward = lambda images, weight, bias: (
        used.update(weight=weight) or nn.functional.conv2d(images, weight, bias, padding=1)
    )
    reg = SmoothKernelRegularizer(model, STRENGTH)
    assert reg.names == ["second.weight", "first.weight"]
    assert reg.computed() == ["first.weight"]
    optimizer, plain_optimizer = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (model, plain))
    for batch in batches:
        optimizer.zero_grad()
        (model(batch).square().mean() + reg()).backward()
        optimizer.step()
        plain_optimizer.zero_grad()
        loss = plain(batch).square().mean()
        (loss + STRENGTH * reference.smooth_kernel_penalty([plain.second.weight, used["weight"]])).backward()
        plain_optimizer.step()
    for (name, found), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
    for found, expected in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)  # no power iteration of ours
    assert all(part.training for part in model.modules())
    assert reg.statistics()[1].name == "first.weight"


@pytest.mark.parametrize("compute", COMPUTED.values(), ids=COMPUTED.keys())
@pytest.mark.parametrize("decoupled", [False, True])
def test_the_hook_refuses_computed_weights_by_name(
    model: nn.Module, compute: Callable[[nn.Module], object], decoupled: bool
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = SmoothKernelRegularizer(model, STRENGTH)
    before.attach(optimizer, decoupled=decoupled)
    compute(model.first)
    with pytest.raises(ValueError, match=r"first\.weight: computed by a param.*\+ reg\(\).*exclude it"):
        optimizer.step()  # what was attached before notices as well
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = SmoothKernelRegularizer(model, STRENGTH)
    with pytest.raises(ValueError, match=r"first\.weight: computed by a param.*\+ reg\(\).*exclude it"):
        reg.attach(optimizer, decoupled=decoupled)
    SmoothKernelRegularizer(model, STRENGTH, exclude="first.weight").attach(optimizer, decoupled=decoupled)
    optimizer.step()


def test_a_weight_pruned_for_good_is_a_parameter_again(model: nn.Module) -> None:
    prune.random_unstructured(model.first, "weight", amount=0.5)
    reg = SmoothKernelRegularizer(model, STRENGTH)
    prune.remove(model.first, "weight")
    value = STRENGTH * reference.smooth_kernel_penalty([model.first.weight, model.second.weight])
    torch.testing.assert_close(reg(), value, rtol=1e-12, atol=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg.attach(optimizer)
    optimizer.step()


def test_a_weight_that_is_gone_is_named(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, STRENGTH)
    del model.first.weight
    with pytest.raises(RuntimeError, match=r"first\.weight: the model has no such parameter any more"):
        reg()


def test_replaced_parameters_are_found(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, STRENGTH)
    state = {name: 2 * value for name, value in model.state_dict().items()}
    old = model.first.weight
    model.load_state_dict(state, assign=True)
    reg().backward()
    assert old.grad is None
    (expected,) = torch.autograd.grad(
        STRENGTH * reference.smooth_kernel_penalty([model.first.weight]), model.first.weight
    )
    torch.testing.assert_close(model.first.weight.grad, expected, rtol=1e-11, atol=1e-12)
    gone = weakref.ref(old)
    del old
    assert gone() is None  # its memory is not kept


@pytest.mark.parametrize(("imported", "initialized"), [(True, False), (False, True), (True, True)])
def test_what_fsdp_may_show_for_a_moment_is_not_taken_for_a_new_parameter(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, imported: bool, initialized: bool
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: initialized)
    monkeypatch.setitem(sys.modules, "torch.distributed.fsdp", object())
    if not imported:
        monkeypatch.delitem(sys.modules, "torch.distributed.fsdp")
    reg = SmoothKernelRegularizer(model, STRENGTH)
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    if not (imported and initialized):
        assert dict(reg.named_parameters())["first.weight"] is model.first.weight
        return
    with pytest.raises(RuntimeError, match=r"first\.weight: the parameter was replaced .* after fully_shard"):
        reg()


@pytest.mark.parametrize("attached", [True, False])
def test_a_tied_weight_counts_once(attached: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 2, 3, padding=1)).double()
    model[2].weight = model[0].weight
    plain = copy.deepcopy(model)
    images = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    optimizer, plain_optimizer = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (model, plain))
    reg = SmoothKernelRegularizer(model, STRENGTH)
    if attached:
        reg.attach(optimizer)
    loss = model(images).square().mean()
    (loss if attached else loss + reg()).backward()
    optimizer.step()
    (plain(images).square().mean() + STRENGTH * reference.smooth_kernel_penalty([plain[0].weight])).backward()
    plain_optimizer.step()
    torch.testing.assert_close(model[0].weight, plain[0].weight, rtol=1e-12, atol=1e-12)
    assert model[2].weight is model[0].weight


@pytest.mark.parametrize("attached", [True, False])
def test_averaged_models_follow_and_are_left_alone(model: nn.Module, batches: list[Tensor], attached: bool) -> None:
    reg = SmoothKernelRegularizer(model, STRENGTH)
    plain = copy.deepcopy(model)
    averages = [AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5)) for net in (model, plain)]
    optimizer, plain_optimizer = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (model, plain))
    if attached:
        reg.attach(optimizer)
    for batch in batches:
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        (loss if attached else loss + reg()).backward()
        optimizer.step()
        averages[0].update_parameters(model)
        plain_optimizer.zero_grad()
        penalty = reference.smooth_kernel_penalty([plain.first.weight, plain.second.weight])
        (plain(batch).square().mean() + STRENGTH * penalty).backward()
        plain_optimizer.step()
        averages[1].update_parameters(plain)
    for found, expected in zip(averages[0].parameters(), averages[1].parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
        assert found.grad is None
    with pytest.raises(ValueError, match=r"none of the regularized parameters \(module\.first\.weight"):
        SmoothKernelRegularizer(averages[0]).attach(optimizer)


def test_lazy_modules_are_refused_until_they_are_initialised() -> None:
    model = nn.Sequential(nn.LazyConv2d(2, 3), nn.Conv2d(2, 2, 3))
    with pytest.raises(ValueError, match=r"0\.weight: not initialised yet; run one batch"):
        SmoothKernelRegularizer(model)
    model(torch.zeros(1, 1, 8, 8))
    SmoothKernelRegularizer(model)().backward()
    assert model[0].weight.grad is not None


def test_the_mask_of_the_weight_is_taken_and_applied_to_the_values_of_now(model: nn.Module) -> None:
    prune.random_unstructured(model.first, "bias", amount=1)
    prune.random_unstructured(model.first, "weight", amount=0.5)
    reg = SmoothKernelRegularizer(model, STRENGTH)
    with torch.no_grad():
        model.first.weight_orig.mul_(2.0)  # no forward pass since, which would set `weight` anew
    used = model.first.weight_orig * model.first.weight_mask
    torch.testing.assert_close(reg(), STRENGTH * reference.smooth_kernel_penalty([model.second.weight, used]))


def test_parts_in_eval_mode_stay_so(model: nn.Module) -> None:
    parametrizations.spectral_norm(model.first)
    model.first.parametrizations.weight[0].eval()
    SmoothKernelRegularizer(model, STRENGTH)()
    assert not model.first.parametrizations.weight[0].training
    assert model.first.parametrizations.training
