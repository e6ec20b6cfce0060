from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


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
