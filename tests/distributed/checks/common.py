"""The net, its data and training, and what a single process makes of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from skreg import reference

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
