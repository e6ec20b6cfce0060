"""Models whose attacks can be worked out by hand, and batches for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

SHAPE = (2, 3, 3)


class Linear(nn.Module):
    """logits = W x + b, which counts the images of every call."""

    def __init__(self, classes: int, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, 18, generator=generator).to(dtype))
        self.bias = nn.Parameter(torch.randn(classes, generator=generator).to(dtype))
        self.rows: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.rows.append(len(images))
        return images.flatten(1) @ self.weight.T + self.bias

    @torch.no_grad()
    def worst(self, images: Tensor, labels: Tensor, eps: float | Tensor) -> Tensor:
        """The best linf attack where there are two classes."""
        direction = (self.weight[1 - labels] - self.weight[labels]).sign().reshape(images.shape)
        return (images + eps * direction).clamp(0, 1)


class Net(nn.Module):
    """A small net with everything that an attack could leave a trace in."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.convolution = nn.Conv2d(2, 4, 2)
            self.norm = nn.BatchNorm2d(4)
            self.dropout = nn.Dropout(0.5)
            self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.tanh(self.norm(self.convolution(images)))
        return self.head(self.dropout(features.flatten(1)))


@pytest.fixture
def linear() -> type[Linear]:
    return Linear


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def batch() -> Callable[..., tuple[Tensor, Tensor]]:
    def make(count: int = 8, classes: int = 2, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(7)
        images = torch.rand(count, *SHAPE, generator=generator).to(dtype)
        return images, torch.randint(classes, (count,), generator=generator)

    return make
