"""Models whose smallest adversarial perturbations are known, as fixtures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from skreg.evaluation import Evaluation, carlini_wagner, evaluate_model

GRADIENT_ATTACKS = ("fgsm", "pgd", "deepfool_l2", "deepfool_linf")  # quick, and nothing in them is random


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """These nets are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def short_cw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer steps of the C&W attack of both presets, which takes thousands."""
    foolbox = pytest.importorskip("foolbox")
    monkeypatch.setattr(carlini_wagner, "ITERATIONS", 150)
    short = functools.partial(foolbox.attacks.L2CarliniWagnerAttack, binary_search_steps=3, steps=80, initial_const=1.0)
    monkeypatch.setattr(foolbox.attacks, "L2CarliniWagnerAttack", short)


class Constant(nn.Module):
    """The same logits for every image, through a graph, so that every gradient is exactly zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0], dtype=images.dtype) + 0.0 * images.flatten(1).sum(dim=1, keepdim=True)


class NotANumber(Constant):
    """A model that has overflowed."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * torch.nan


@pytest.fixture
def constant_model() -> nn.Module:
    return Constant()


@pytest.fixture
def nan_model() -> nn.Module:
    return NotANumber()


@pytest.fixture
def make_net() -> Callable[..., nn.Module]:
    """Two convolutions with kinks between them, 4 classes, images 1 x 8 x 8, float64.

    `handicap` is added to the first logit, in standard deviations: at 0 a boundary
    is near every image, at 12 class 0 is everywhere and hard to leave.
    """

    def make(handicap: float = 0.0) -> nn.Module:
        torch.manual_seed(8)
        net = nn.Sequential(
            nn.BatchNorm2d(1, affine=False),
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 4),
        ).double()
        net[0].running_mean.fill_(0.5)
        net[0].running_var.fill_(0.09)
        net.eval()
        with torch.no_grad():
            logits = net(_noise(50))
            net[-1].bias -= logits.mean(dim=0)
            net[-1].bias[0] += handicap * (logits - logits.mean(dim=0)).std()
        return net

    return make


def _noise(count: int) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(11), dtype=torch.float64)


@pytest.fixture
def noise_images() -> Tensor:
    """8 images 1 x 8 x 8 with values over all of [0, 1], so that clipping matters; float64."""
    return _noise(8)


@pytest.fixture
def grey_images() -> Tensor:
    """12 images 1 x 8 x 8 with values between 0.4 and 0.6, far from the bounds; float64."""
    generator = torch.Generator().manual_seed(7)
    return 0.4 + 0.2 * torch.rand(12, 1, 8, 8, generator=generator, dtype=torch.float64)


@pytest.fixture
def make_linear() -> Callable[[int], nn.Module]:
    """Linear models of so many classes on 1 x 8 x 8: a convolution over the whole image, float64.

    The even grey image lies on all of their decision boundaries.
    """

    def make(classes: int) -> nn.Module:
        model = nn.Sequential(nn.Conv2d(1, classes, 8), nn.Flatten()).double()
        generator = torch.Generator().manual_seed(5)
        weight = torch.randn(classes, 1, 8, 8, generator=generator, dtype=torch.float64)
        model[0].weight.data.copy_(weight)
        model[0].bias.data.copy_(-0.5 * weight.flatten(1).sum(1))
        return model

    return make


@pytest.fixture
def evaluation(make_linear, grey_images) -> Evaluation:
    """Of a linear model that errs on 2 of 12 images."""
    model = make_linear(2)
    with torch.no_grad():
        labels = model(grey_images).argmax(dim=1)
    labels[:2] = 1 - labels[:2]
    return evaluate_model(
        model, grey_images, labels, eps=0.02, name="V", data="toys", attacks=GRADIENT_ATTACKS, batch_size=5
    )
