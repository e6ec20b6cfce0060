"""What each process of `test_processes.py` runs: every check that needs more than one process, by name.

Run by ``python -m torch.distributed.run``. Rank 0 writes ``{check: "ok" or traceback}`` to the file that it is given;
a check that fails on another rank is a failure as well.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from skreg import SmoothKernelRegularizer, reference

STRENGTH = 0.2
CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


def net() -> nn.Module:
    """Output channels that leave 4 processes uneven and empty shards, the same on every process."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.Tanh(), nn.Conv2d(5, 1, (1, 5)), nn.Tanh(), nn.Conv2d(1, 6, 3), nn.Flatten()
    ).double()


def names() -> list[str]:
    return ["0.weight", "2.weight", "4.weight"]


def batch(step: int, rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(3, 2, 9, 9, generator=generator, dtype=torch.float64)


def criterion(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).square().mean()


def penalty(model: nn.Module, **options: object) -> Tensor:
    """strength * R by autograd alone, on the whole weights."""
    weights = [dict(model.named_parameters())[name] for name in names()]
    return STRENGTH * reference.smooth_kernel_penalty(weights, **options)


def adamw(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


def single_process(
    make: Callable[..., torch.optim.Optimizer], steps: int, decoupled: bool = False, **options
) -> nn.Module:
    """The model that one process reaches on all batches by the loss form, or by the formula of the decoupled one."""
    model, world = net(), dist.get_world_size()
    optimizer = make(model.parameters())
    for step in range(steps):
        loss = sum(criterion(model, batch(step, rank)) for rank in range(world)) / world
        (loss if decoupled else loss + penalty(model, **options)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if decoupled:
            weights = [dict(model.named_parameters())[name] for name in names()]
            gradients = torch.autograd.grad(penalty(model, **options), weights)
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients):
                    weight -= optimizer.param_groups[0]["lr"] * gradient
    return model


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def assert_bit_equal(tensor: Tensor) -> None:
    """Every process holds the same bits."""
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, tensor.detach().contiguous())
    assert all(torch.equal(gathered[0], other) for other in gathered), gathered


def assert_same(model: nn.Module, expected: nn.Module, tolerance: float = 1e-10) -> None:
    found = dict(model.named_parameters())
    for name, parameter in expected.named_parameters():
        value = whole(found[name])
        assert_bit_equal(value)
        torch.testing.assert_close(
            value, parameter.detach(), rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, reg: Callable[[], Tensor] | None = None
) -> None:
    for step in range(steps):
        loss = criterion(model, batch(step, dist.get_rank()))
        (loss if reg is None else loss + reg()).backward()
        optimizer.step()
        optimizer.zero_grad()


OPTIONS = [
    {},
    {"reduction": "mean", "normalize": None, "exponentiate": None},
    {"exponentiate": "layer", "reduction": "mean"},
    {"exponentiate": "layer", "max_exponent": 0.5, "connectivity": 2},
    {"exponentiate": "kernel", "reduction": "mean", "normalize": "divide"},
]


# DistributedDataParallel -----------------------------------------------------------------------------------------


@check
def ddp_attached_and_loss_form() -> None:
    expected = single_process(adamw, 3)
    for attached in (True, False):
        model = net()
        reg, optimizer = SmoothKernelRegularizer(model, STRENGTH), adamw(model.parameters())
        parallel = DistributedDataParallel(model)
        if attached:
            reg.attach(optimizer)
        train(parallel, optimizer, 3, None if attached else reg)
        assert_same(model, expected)


@check
def ddp_decoupled() -> None:
    model = net()
    reg, optimizer = SmoothKernelRegularizer(model, STRENGTH), adamw(model.parameters())
    reg.attach(optimizer, decoupled=True)
    train(DistributedDataParallel(model), optimizer, 3)
    assert_same(model, single_process(adamw, 3, decoupled=True))


@check
def ddp_no_sync_counts_the_penalty_once_a_step() -> None:
    world, rank = dist.get_world_size(), dist.get_rank()
    expected = net()
    (sum(criterion(expected, batch(s, r)) for s in (0, 1) for r in range(world)) / world + penalty(expected)).backward()
    sgd(expected.parameters()).step()
    for attached in (True, False):
        model = net()
        reg, optimizer = SmoothKernelRegularizer(model, STRENGTH), sgd(model.parameters())
        if attached:
            reg.attach(optimizer)
        parallel = DistributedDataParallel(model)
        with parallel.no_sync():
            criterion(parallel, batch(0, rank)).backward()
        loss = criterion(parallel, batch(1, rank))
        (loss if attached else loss + reg()).backward()
        optimizer.step()
        assert_same(model, expected)


@check
def zero_redundancy_optimizer() -> None:
    for decoupled in (False, True):
        model = net()
        parallel = DistributedDataParallel(model)
        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.01)
        SmoothKernelRegularizer(model, STRENGTH).attach(optimizer, decoupled=decoupled)
        train(parallel, optimizer, 3)
        assert_same(model, single_process(adamw, 3, decoupled=decoupled))
    optimizer._overlap_with_ddp = True
    with pytest.raises(ValueError, match=r"overlap_with_ddp=True steps inside the backward pass; add the penalty"):
        SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)


# FSDP2 -----------------------------------------------------------------------------------------------------------


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


# Other shardings ---------------------------------------------------------------------------------------------------


def placed(*placements: object) -> nn.Module:
    """A convolution whose weight is laid out so over a mesh of one dimension a placement."""
    torch.manual_seed(1)
    model = nn.Conv2d(4, 6, 4, bias=False).double()
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,) if len(placements) == 1 else (2, world // 2))
    weight = model.weight.detach()
    shards = distribute_tensor(weight, mesh, placements)
    model.weight = nn.Parameter(shards)
    return model, weight.clone().requires_grad_()


@check
def shardings_with_whole_kernels() -> None:
    layouts = [(Shard(0),), (Shard(1),), (Replicate(),)]
    if dist.get_world_size() == 4:
        layouts += [(Replicate(), Shard(0)), (Shard(0), Shard(1)), (Shard(0), Replicate()), (Shard(0), Shard(0))]
    for layout in layouts:
        for options in OPTIONS[:3]:
            model, weight = placed(*layout)
            reg = SmoothKernelRegularizer(model, STRENGTH, **options)
            value, expected = reg(), STRENGTH * reference.smooth_kernel_penalty([weight], **options)
            assert_bit_equal(value)
            torch.testing.assert_close(value.detach(), expected.detach(), rtol=1e-12, atol=1e-12)
            value.backward()
            (gradient,) = torch.autograd.grad(expected, weight)
            torch.testing.assert_close(whole(model.weight.grad), gradient, rtol=1e-11, atol=1e-13)
            model.weight.grad = None
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            reg.attach(optimizer)
            optimizer.step()
            torch.testing.assert_close(whole(model.weight), (weight - 0.1 * gradient).detach(), rtol=1e-11, atol=1e-13)
            assert_bit_equal(whole(model.weight))


@check
def shardings_that_split_kernels_are_refused_by_name() -> None:
    for dimension in (2, 3):
        model, _ = placed(Shard(dimension))
        with pytest.raises(
            ValueError, match=rf"weight: its sharding S.*{dimension}.* does not leave every kernel whole"
        ):
            SmoothKernelRegularizer(model)
    model, weight = placed(Shard(0))
    mesh = model.weight.device_mesh
    model.weight = nn.Parameter(DTensor.from_local(weight.detach(), mesh, [Partial()]))
    with pytest.raises(ValueError, match=r"weight: its sharding P.* does not leave every kernel whole"):
        SmoothKernelRegularizer(model)


@check
def a_gradient_laid_out_in_another_way_is_refused() -> None:
    model, _ = placed(Shard(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    model.weight.grad = torch.zeros_like(model.weight).redistribute(placements=[Replicate()])
    with pytest.raises(ValueError, match=r"weight: its gradient has placements .*Replicate"):
        optimizer.step()


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    report: dict[str, str] = {}
    for name, function in CHECKS.items():
        try:
            function()
            result = "ok"
        except BaseException:
            result = f"rank {dist.get_rank()}: {traceback.format_exc()}"
        results: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(results, result)
        report[name] = next((r for r in results if r != "ok"), "ok")
    if dist.get_rank() == 0:
        with open(sys.argv[1], "w", encoding="utf-8") as file:
            json.dump(report, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    assert "LOCAL_RANK" in os.environ, "run me by python -m torch.distributed.run"
    main()
