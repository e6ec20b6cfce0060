"""Vulnerability by frequency, on models that look at one frequency or band alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from skreg.evaluation.frequency import (
    BANDS,
    band_noise,
    band_pgd,
    filter_band,
    fourier_basis,
    fourier_error,
    radial_mean,
    radius,
)

SIDE = 8


class Linear(nn.Module):
    """Two classes; the margin is <weight, x - 0.5> + margin."""

    def __init__(self, weight, margin):
        super().__init__()
        self.register_buffer("weight", weight)
        self.margin = margin

    def forward(self, images):
        score = ((images - 0.5) * self.weight.to(images)).flatten(1).sum(1) + self.margin
        return torch.stack([score, -score], dim=1) / 2


def grey(count=4, side=SIDE):
    return torch.full((count, 1, side, side), 0.5, dtype=torch.float64), torch.zeros(count, dtype=torch.int64)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(-9, 9), st.integers(-9, 9))
def test_a_basis_vector_has_norm_1_and_one_frequency(height, width, i, j):
    image = fourier_basis(height, width, i, j)
    energy = torch.fft.fft2(image).abs() ** 2
    assert image.norm().item() == pytest.approx(1)
    own = energy[i % height, j % width] + energy[-i % height, -j % width]
    if (i % height, j % width) == (-i % height, -j % width):
        own /= 2
    assert own.item() == pytest.approx(energy.sum().item())


@pytest.mark.parametrize(("i", "j"), [(0, 1), (3, 2), (4, 4), (0, 0), (-2, 3)])
def test_the_error_map_finds_the_frequency_that_a_model_looks_at(i, j):
    images, labels = grey(16)
    model = Linear(fourier_basis(SIDE, SIDE, i, j), margin=0.25)
    errors = fourier_error(model, images, labels, norm=0.3, batch_size=5)
    found = {tuple(place) for place in (errors > 0).nonzero().tolist()}
    assert found == {((SIDE // 2 + i) % SIDE, (SIDE // 2 + j) % SIDE), ((SIDE // 2 - i) % SIDE, (SIDE // 2 - j) % SIDE)}
    assert 0 < errors.max() < 1  # the half of the images whose sign points the wrong way
    assert fourier_error(model, images, labels, norm=0.2).max() == 0


def test_the_map_does_not_depend_on_the_batch_and_reports_progress():
    torch.manual_seed(0)
    images, labels = torch.rand(9, 2, SIDE, SIDE), torch.randint(3, (9,))
    model, steps = nn.Sequential(nn.Flatten(), nn.Linear(2 * SIDE * SIDE, 3)), []
    errors = fourier_error(model, images, labels, norm=4.0, batch_size=2, progress=lambda *step: steps.append(step))
    assert torch.equal(errors, fourier_error(model, images, labels, norm=4.0))
    assert errors.max() > errors.min()
    assert steps[0] == (1, 34)
    assert steps[-1] == (34, 34)  # (64 + 4 that are their own conjugates) / 2


def test_rings_average_a_map():
    distances = torch.fft.fftshift(radius(8, 8))
    edges = torch.tensor([0.0, 0.2, 0.4, 0.8, 0.9])
    means = radial_mean(distances, edges)
    assert all(low <= mean < high for low, mean, high in zip(edges, means[:-1], edges[1:], strict=False))
    assert means[-1].isnan()


def test_the_bands_divide_the_spectrum_up_to_the_mean():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 28, 28, dtype=torch.float64)
    parts = sum(filter_band(images, *band) for band in BANDS.values())
    assert torch.allclose(parts + images.mean(dim=(2, 3), keepdim=True), images)


@pytest.mark.parametrize("band", BANDS.values())
def test_noise_stays_in_its_band_and_has_its_norm(band):
    images, _ = grey(3, 28)
    noise = band_noise(images, low=band[0], high=band[1], norm=1.0) - images
    assert torch.allclose(noise.flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(filter_band(noise, *band), noise)
    assert not torch.equal(noise, band_noise(images, low=band[0], high=band[1], norm=1.0, seed=1) - images)


@pytest.mark.parametrize("band", BANDS.values())
def test_band_pgd_succeeds_exactly_where_a_linear_model_can_be_fooled_in_the_band(band):
    torch.manual_seed(1)
    weight = torch.randn(SIDE, SIDE, dtype=torch.float64)
    reach = filter_band(weight, *band).norm().item()
    images, labels = grey(5)
    for eps, fooled in ((1.05, True), (0.95, False)):
        model = Linear(weight, margin=0.3 * reach)
        adversarial = band_pgd(model, images, labels, low=band[0], high=band[1], eps=0.3 * eps, steps=30, batch_size=2)
        assert ((model(adversarial).argmax(1) != labels) == fooled).all()
        change = adversarial - images
        assert (change.flatten(1).norm(dim=1) <= 0.3 * eps * (1 + 1e-9)).all()
        assert torch.allclose(filter_band(change, *band), change)


def test_band_pgd_leaves_the_model_and_wrong_images_alone_and_stays_within_bounds():
    torch.manual_seed(0)
    images = torch.rand(6, 1, SIDE, SIDE)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3)).train()
    labels = (model(images).argmax(1) + torch.tensor([0, 0, 0, 1, 1, 1])) % 3
    adversarial = band_pgd(model, images, labels, low=0.1, high=0.5, eps=3.0)
    assert ((adversarial >= 0) & (adversarial <= 1)).all()
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert (adversarial[3:] - images[3:]).flatten(1).norm(dim=1).max() <= 3.0 + 1e-5
    assert torch.equal(adversarial, band_pgd(model, images, labels, low=0.1, high=0.5, eps=3.0))
    empty = band_pgd(model, images[:0], labels[:0], low=0.1, high=0.5, eps=3.0)
    assert empty.shape == (0, 1, SIDE, SIDE)


def test_mistakes_are_named():
    images, labels = grey()
    model = Linear(torch.zeros(SIDE, SIDE), 0.0)
    with pytest.raises(ValueError, match=r"a band between 0 and 0\.71"):
        band_noise(images, low=0.8, high=0.9, norm=1.0)
    with pytest.raises(ValueError, match=r"found 0\.3 to 0\.2"):
        band_pgd(model, images, labels, low=0.3, high=0.2, eps=1.0)
    with pytest.raises(ValueError, match="eps must be finite"):
        band_pgd(model, images, labels, low=0.1, high=0.5, eps=0.0)
    with pytest.raises(ValueError, match="at least one, found none"):
        fourier_error(model, images[:0], labels[:0], norm=1.0)
    with pytest.raises(ValueError, match="norm must be finite"):
        fourier_error(model, images, labels, norm=-1.0)
    broken = Linear(torch.full((SIDE, SIDE), torch.nan), 0.0)
    with pytest.raises(FloatingPointError):
        fourier_error(broken, images, labels, norm=1.0)
    with pytest.raises(FloatingPointError):
        band_pgd(broken, images, labels, low=0.1, high=0.5, eps=1.0)
