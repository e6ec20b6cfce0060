"""Shardings by hand: those that leave kernels whole, and those that do not."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from skreg import SmoothKernelRegularizer, reference
from skreg.options import PenaltyOptions
from skreg.sharding import sharded_penalty

from .common import OPTIONS, STRENGTH, assert_bit_equal, check, whole


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
def sharded_weights_beside_whole_ones() -> None:
    for options in OPTIONS[:3]:
        model, weight = placed(Shard(0))
        torch.manual_seed(2)
        whole_one = nn.Conv2d(2, 3, 3).double()
        pairs = [("sharded", model.weight), ("whole", whole_one.weight)]
        value = SmoothKernelRegularizer(pairs, STRENGTH, **options)()
        weights = [weight, whole_one.weight.detach().clone().requires_grad_()]
        expected = STRENGTH * reference.smooth_kernel_penalty(weights, **options)
        torch.testing.assert_close(value.detach(), expected.detach(), rtol=1e-12, atol=1e-12)
        value.backward()
        for (_, found), gradient in zip(pairs, torch.autograd.grad(expected, weights)):
            torch.testing.assert_close(whole(found.grad), gradient, rtol=1e-11, atol=1e-13)


@check
def second_derivatives() -> None:
    """Of what needs no sum over processes inside an exp: kernels, and layers of which each process has all."""
    for layout, options in (((Shard(0),), OPTIONS[0]), ((Replicate(),), OPTIONS[2])):
        model, weight = placed(*layout)
        seconds = []
        for leaf, value in (
            (model.weight, SmoothKernelRegularizer(model, STRENGTH, **options)()),
            (weight, STRENGTH * reference.smooth_kernel_penalty([weight], **options)),
        ):
            (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
            (second,) = torch.autograd.grad(gradient.square().sum(), leaf)
            seconds.append(whole(second))
        torch.testing.assert_close(*seconds, rtol=1e-10, atol=1e-12)


@check
def shardings_that_split_kernels_are_refused_by_name() -> None:
    for dimension in (2, 3):
        model, _ = placed(Shard(dimension))
        with pytest.raises(
            ValueError, match=rf"weight: its sharding S.*{dimension}.* does not leave every kernel whole"
        ):
            SmoothKernelRegularizer(model)
        whole_kernels, _ = placed(Shard(0))
        reg = SmoothKernelRegularizer(whole_kernels)
        whole_kernels.weight = model.weight  # laid out anew after the regularizer was built
        with pytest.raises(ValueError, match=rf"weight: its sharding S.*{dimension}.* does not leave every kernel"):
            reg()
    model, weight = placed(Shard(0))
    mesh = model.weight.device_mesh
    model.weight = nn.Parameter(DTensor.from_local(weight.detach(), mesh, [Partial()]))
    with pytest.raises(ValueError, match=r"weight: its sharding P.* does not leave every kernel whole"):
        SmoothKernelRegularizer(model)


@check
def a_layer_without_kernels_adds_nothing() -> None:
    model, weight = placed(Shard(0))
    empty = distribute_tensor(torch.zeros(0, 4, 3, 3).double(), model.weight.device_mesh, [Shard(0)])
    options = PenaltyOptions(reduction="mean")
    found = sharded_penalty([empty, model.weight], torch.ones(2).double(), options, ["empty", "weight"])
    expected = reference.smooth_kernel_penalty([weight], reduction="mean")
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-12, atol=1e-12)


@check
def a_gradient_laid_out_in_another_way_is_refused() -> None:
    model, _ = placed(Shard(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)
    model.weight.grad = torch.zeros_like(model.weight).redistribute(placements=[Replicate()])
    with pytest.raises(ValueError, match=r"weight: its gradient has placements .*Replicate"):
        optimizer.step()
