"""FSDP2: every process has a shard of each weight."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.debug import CommDebugMode

from skreg import SmoothKernelRegularizer, reference

from .common import (
    OPTIONS,
    STRENGTH,
    adamw,
    assert_bit_equal,
    assert_same,
    batch,
    check,
    criterion,
    net,
    penalty,
    single_process,
    train,
    whole,
)


def sharded(**options: object) -> nn.Module:
    """Two modules of their own, one weight that stays with the root."""
    model = net()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in (model[0], model[2], model):
        fully_shard(module, mesh=mesh, **options)
    return model


@check
def fsdp_attached() -> None:
    for options in OPTIONS:
        model = sharded()
        optimizer = adamw(model.parameters())
        SmoothKernelRegularizer(model, STRENGTH, **options).attach(optimizer)
        train(model, optimizer, 2)
        assert_same(model, single_process(adamw, 2, **options))


@check
def fsdp_loss_form() -> None:
    for options in OPTIONS:
        model = sharded()
        optimizer = adamw(model.parameters())
        reg = SmoothKernelRegularizer(model, STRENGTH, **options)
        value = reg()
        assert_bit_equal(value)
        torch.testing.assert_close(value.detach(), penalty(net(), **options).detach(), rtol=1e-12, atol=1e-12)
        train(model, optimizer, 2, reg)
        assert_same(model, single_process(adamw, 2, **options))


@check
def fsdp_decoupled() -> None:
    for options in ({}, {"exponentiate": "layer", "reduction": "mean"}):
        model = sharded()
        optimizer = adamw(model.parameters())
        SmoothKernelRegularizer(model, STRENGTH, **options).attach(optimizer, decoupled=True)
        train(model, optimizer, 2)
        assert_same(model, single_process(adamw, 2, decoupled=True, **options))


@check
def fsdp_needs_one_gather_for_what_is_summed_and_none_for_the_rest() -> None:
    for options, wanted in (({}, {"reg": 1, "hook": 0}), (OPTIONS[2], {"reg": 1, "hook": 1})):
        model = sharded()
        optimizer = adamw(model.parameters())
        reg = SmoothKernelRegularizer(model, STRENGTH, **options)
        with CommDebugMode() as of_reg:
            reg().backward()
        assert of_reg.get_total_counts() == wanted["reg"]
        for decoupled in (False, True):
            with reg.attach(optimizer, decoupled=decoupled):
                optimizer.step()  # the first one looks at the length of the step as well
                with CommDebugMode() as of_hook:
                    optimizer.step()
            assert of_hook.get_total_counts() == wanted["hook"]


@check
def fsdp_shards_are_uneven_and_empty_and_sum_to_the_whole() -> None:
    model = sharded()
    reg = SmoothKernelRegularizer(model, STRENGTH, reduction="mean")
    shards = {name: weight.to_local() for name, weight in reg.named_parameters()}
    sizes = [shard.numel() for shard in shards.values()]
    gathered: list[list[int]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, sizes)
    assert any(0 in process for process in gathered)
    assert len({process[0] for process in gathered}) > 1
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    reg.attach(optimizer)
    optimizer.step()  # no backward pass: the penalty alone
    expected = net()
    penalty(expected, reduction="mean").backward()
    for name, weight in reg.named_parameters():
        assert weight.grad.placements == weight.placements
        gradient = dict(expected.named_parameters())[name].grad
        torch.testing.assert_close(whole(weight.grad), gradient, rtol=1e-12, atol=1e-14)


@check
def fsdp_mixed_precision_regularizes_the_full_precision_shards() -> None:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for attached in (True, False):
        plain, model = sharded(mp_policy=policy), sharded(mp_policy=policy)
        reg = SmoothKernelRegularizer(model, STRENGTH)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        if attached:
            reg.attach(optimizer)
        rank = dist.get_rank()
        loss = criterion(model, batch(0, rank).bfloat16())
        (loss if attached else loss + reg()).backward()
        optimizer.step()
        criterion(plain, batch(0, rank).bfloat16()).backward()
        whole_net = net()
        penalty(whole_net).backward()
        expected = dict(whole_net.named_parameters())
        for (name, weight), (_, other) in zip(
            reg.named_parameters(), SmoothKernelRegularizer(plain).named_parameters()
        ):
            gradient = whole(other.grad) + expected[name].grad  # float64, whatever the policy computes in
            torch.testing.assert_close(whole(weight.grad), gradient, rtol=1e-12, atol=1e-12)
            assert weight.dtype == torch.float64


@check
def fsdp_after_the_regularizer_was_built() -> None:
    model = net()
    reg = SmoothKernelRegularizer(model, STRENGTH)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in (model[0], model[2], model):
        fully_shard(module, mesh=mesh)
    optimizer = adamw(model.parameters())
    late = copy.copy(reg)  # first called while the root's weights are gathered
    late._weights = [copy.copy(weight) for weight in reg._weights]
    reg.attach(optimizer)
    train(model, optimizer, 2)
    assert_same(model, single_process(adamw, 2))
    loss = criterion(model, batch(0, dist.get_rank()))
    with pytest.raises(RuntimeError, match=r"4\.weight: .*build it after fully_shard"):
        late()
    loss.backward()


@check
def fsdp_gathered_weights_at_the_step() -> None:
    model = sharded()
    for module in (model[0], model[2], model):
        module.set_reshard_after_backward(False)
    optimizer = adamw(model.parameters())
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    train(model, optimizer, 1)
    for module in (model[0], model[2], model):
        module.reshard()
    assert_same(model, single_process(adamw, 1))


@check
def fsdp_overflow_is_an_error_on_every_process() -> None:
    for options in ({}, {"exponentiate": "layer"}):
        model = sharded()
        with torch.no_grad():
            weight = model[4].weight.to_local()
            if dist.get_rank() == 0:
                weight[0, 0, 1, 1] = 30.0  # D - E = 4 * 900 - 900
        with pytest.raises(FloatingPointError, match=r"4\.weight: the penalty is inf.*max_exponent"):
            SmoothKernelRegularizer(model, STRENGTH, **options)()


@check
def fsdp_layer_form_refuses_second_derivatives() -> None:
    model = sharded()
    value = SmoothKernelRegularizer(model, STRENGTH, exponentiate="layer", reduction="mean")()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(value, model[0].weight, create_graph=True)


@check
def fsdp_frozen_weights_do_not_count() -> None:
    model, expected = sharded(), net()
    for each in (model, expected):
        each[0].weight.requires_grad_(False)
    reg = SmoothKernelRegularizer(model, STRENGTH)
    weights = [expected[2].weight, expected[4].weight]
    value = STRENGTH * reference.smooth_kernel_penalty(weights)
    torch.testing.assert_close(reg().detach(), value.detach(), rtol=1e-12, atol=1e-12)


@check
def fsdp_warns_of_a_step_beyond_the_largest_stable_one() -> None:
    model = sharded()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    options = {"normalize": None, "exponentiate": None, "reduction": "mean"}
    bound = 6 / 6  # of 4.weight: 6 kernels, largest eigenvalue 6; 2.weight (1, 5): 5 / 3.6; 0.weight: 10 / 6
    owns_some = model[4].weight.to_local().numel() > 0
    for strength, warned in ((0.99 * bound, False), (1.01 * bound, True)):
        reg = SmoothKernelRegularizer(model, strength, **options)
        with warnings.catch_warnings(record=True) as caught, reg.attach(optimizer):
            warnings.simplefilter("always")
            optimizer.step()
        assert [str(w.message).split(":")[0] for w in caught] == ["4.weight"] * (warned and owns_some)
