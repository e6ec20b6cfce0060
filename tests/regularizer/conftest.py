from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from skreg import reference

STRENGTH = 0.2


class TwoConvolutions(nn.Module):
    """A small float64 net whose convolutions have kernels of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 3, (1, 5), groups=1)
        self.pointwise = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images).tanh()
        return self.head(self.pointwise(self.second(hidden).tanh()).mean((2, 3)))


@pytest.fixture
def model() -> TwoConvolutions:
    torch.manual_seed(0)
    return TwoConvolutions().double()


@pytest.fixture
def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, 2, 6, 6, generator=generator, dtype=torch.float64) for _ in range(6)]


def criterion(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def penalty(model: nn.Module, strength: float = STRENGTH) -> Tensor:
    """What `SmoothKernelRegularizer(model, strength)` stands for, by autograd alone."""
    return strength * reference.smooth_kernel_penalty([model.first.weight, model.second.weight])


def assert_same_parameters(found: nn.Module, expected: nn.Module, tolerance: float = 1e-11) -> None:
    named = dict(found.named_parameters())
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(
            named[name], parameter, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
