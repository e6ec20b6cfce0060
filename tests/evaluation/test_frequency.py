from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from skreg.evaluation import fourier_errors
from skreg.evaluation.frequency import fourier_vector


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 6)])
def test_vectors_have_norm_1_and_one_frequency(height, width):
    for row in range(-(height // 2), height - height // 2):
        for column in range(-(width // 2), width - width // 2):
            vector = fourier_vector(row, column, height, width)
            assert vector.shape == (height, width)
            assert float(vector.norm()) == pytest.approx(1)
            power = np.abs(np.fft.fft2(vector.numpy())) > 1e-9
            twins = {(row % height, column % width), (-row % height, -column % width)}
            assert set(zip(*np.nonzero(power), strict=True)) == twins


class Detector(nn.Module):
    """Sees class 1 where an image holds more than `least` of one frequency, and class 0 elsewhere."""

    def __init__(self, row: int, column: int, least: float) -> None:
        super().__init__()
        self.least = least
        self.register_buffer("wave", fourier_vector(row, column, 8, 8))
        self.seen: list[torch.Tensor] = []

    def forward(self, images):
        self.seen.append(images)
        found = (images * self.wave).sum(dim=(1, 2, 3)).abs()
        return torch.stack([torch.full_like(found, self.least), found], dim=1)


GREY = torch.full((6, 1, 8, 8), 0.5, dtype=torch.float64)


def test_a_detector_errs_at_its_frequency_and_nowhere_else():
    errors = fourier_errors(Detector(1, 2, least=0.4), GREY, torch.zeros(6).long(), norm=0.5)
    expected = torch.zeros(8, 8, dtype=torch.float64)
    expected[4 + 1, 4 + 2] = expected[4 - 1, 4 - 2] = 1
    assert torch.equal(errors, expected)
    assert not fourier_errors(Detector(1, 2, least=0.4), GREY, torch.zeros(6).long(), norm=0.3).any()


def test_perturbations_have_the_norm_and_both_signs_and_are_clipped():
    model = Detector(0, 1, least=99.0)
    fourier_errors(model, GREY, torch.zeros(6).long(), norm=0.25, batch_size=4)
    changes = torch.cat(model.seen) - 0.5
    torch.testing.assert_close(changes.flatten(1).norm(dim=1), torch.full((len(changes),), 0.25, dtype=torch.float64))
    signs = changes[:6, 0, 0, 0].sign()
    assert signs.min() == -1
    assert signs.max() == 1
    model.seen.clear()
    fourier_errors(model, GREY, torch.zeros(6).long(), norm=100.0)
    assert all(images.min() >= 0 and images.max() <= 1 for images in model.seen)


def test_each_pair_of_frequencies_is_seen_once():
    model = Detector(0, 1, least=99.0)
    fourier_errors(model, GREY, torch.zeros(6).long(), norm=0.1)
    assert len(model.seen) == 64 // 2 + 2  # four of them are their own negatives


def test_norm_0_is_the_clean_error_and_batches_change_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double().train()
    images, labels = torch.rand(10, 1, 8, 8, dtype=torch.float64), torch.randint(3, (10,))
    clean = float((model(images).argmax(dim=1) != labels).double().mean())
    assert torch.equal(fourier_errors(model, images, labels, norm=0), torch.full((8, 8), clean, dtype=torch.float64))
    whole = fourier_errors(model, images, labels, norm=1.0, seed=4)
    assert torch.equal(whole, fourier_errors(model, images, labels, norm=1.0, seed=4, batch_size=3))
    assert torch.equal(whole[1:, 1:], whole[1:, 1:].flip(0, 1))
    assert torch.equal(fourier_errors(model, images, labels, norm=1.0, seed=4, size=5), whole[2:7, 2:7])
    assert model.training


def test_errors():
    model, labels = Detector(0, 1, least=1.0), torch.zeros(6).long()
    with pytest.raises(ValueError, match="number of images must be at least 1"):
        fourier_errors(model, GREY[:0], labels[:0], norm=1.0)
    for norm in (-1.0, math.inf):
        with pytest.raises(ValueError, match="norm must be finite"):
            fourier_errors(model, GREY, labels, norm=norm)
    for size in (4, 9):
        with pytest.raises(ValueError, match="size: expected an odd number of at most 8"):
            fourier_errors(model, GREY, labels, norm=1.0, size=size)
    model.wave.fill_(math.nan)
    with pytest.raises(FloatingPointError):
        fourier_errors(model, GREY, labels, norm=1.0)
