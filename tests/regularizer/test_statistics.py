from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skreg import reference
from skreg.options import PenaltyOptions
from skreg.regularizer import SmoothKernelRegularizer
from skreg.statistics import KernelStatistics, format_statistics, high_frequency_energy, kernel_statistics


def of(weight: Tensor, options: PenaltyOptions | None = None) -> KernelStatistics:
    (statistics,) = kernel_statistics({"conv": weight}, options or PenaltyOptions())
    return statistics


def slow_difference(kernel: np.ndarray, connectivity: int) -> float:
    """D(k) by looking at all pairs of positions."""
    positions = list(itertools.product(*map(range, kernel.shape)))
    total = 0.0
    for p, q in itertools.combinations(positions, 2):
        steps = [abs(a - b) for a, b in zip(p, q, strict=True)]
        if max(steps) == 1 and sum(steps) <= connectivity:
            total += float(kernel[p] - kernel[q]) ** 2
    return total


def slow_high_frequency_energy(kernel: np.ndarray, size: int) -> float:
    """The integral over the spectrum as a sum over the DFT of the kernel padded to `size` positions an axis.

    On the border of the low-frequency box a point counts by half for every axis that is on it.
    """
    spectrum = np.abs(np.fft.fftn(kernel, s=(size,) * kernel.ndim, axes=range(kernel.ndim))) ** 2
    frequency = np.abs(np.fft.fftfreq(size))
    axis = np.where(frequency < 0.25, 1.0, np.where(frequency == 0.25, 0.5, 0.0))
    low = np.ones(())
    for _ in range(kernel.ndim):
        low = np.multiply.outer(low, axis)
    return float((spectrum * (1 - low)).mean())


@settings(deadline=None, max_examples=40)
@given(
    spatial=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    connectivity=st.integers(1, 3),
    normalize=st.sampled_from(["subtract", "divide", None]),
    seed=st.integers(0, 2**16),
)
def test_against_slow_formulas(spatial: list[int], connectivity: int, normalize: str | None, seed: int) -> None:
    options = PenaltyOptions(normalize=normalize, connectivity=connectivity)
    generator = torch.Generator().manual_seed(seed)
    # Small enough for exp(S) to be finite for the largest of the kernels.
    weight = torch.randn(2, 3, *spatial, generator=generator, dtype=torch.float64) / 4
    found = of(weight, options)
    kernels = weight.flatten(0, 1).numpy()
    differences = [slow_difference(kernel, connectivity) for kernel in kernels]
    energies = [float((kernel**2).sum()) for kernel in kernels]
    form = {"subtract": lambda d, e: d - e, "divide": lambda d, e: d / e, None: lambda d, e: d}[normalize]
    scores = [form(d, e) for d, e in zip(differences, energies, strict=True)]
    assert found.shape == tuple(weight.shape)
    assert found.kernels == 6
    assert found.difference == pytest.approx(sum(differences), rel=1e-12)
    assert found.energy == pytest.approx(sum(energies), rel=1e-12)
    assert found.roughness == pytest.approx(sum(differences) / sum(energies), rel=1e-12)
    assert found.score == pytest.approx(sum(scores), rel=1e-9, abs=1e-12)
    assert found.penalty == pytest.approx(sum(map(math.exp, scores)), rel=1e-9)
    assert 0.0 <= found.high_frequency_share <= 1.0


@pytest.mark.parametrize(("spatial", "size"), [((5,), 4096), ((3, 3), 512), ((7, 2), 512), ((2, 3, 2), 64)])
def test_high_frequency_energy_is_that_of_the_padded_fourier_transform(spatial: tuple[int, ...], size: int) -> None:
    kernels = torch.randn(4, *spatial, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [slow_high_frequency_energy(kernel, size) for kernel in kernels.numpy()]
    found = high_frequency_energy(kernels)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=3e-3, atol=0)


def checkerboard(*spatial: int) -> Tensor:
    signs = sum(torch.meshgrid(*(torch.arange(n) for n in spatial), indexing="ij")) % 2
    return (1.0 - 2.0 * signs).reshape(1, 1, *spatial).double()


def test_constant_kernels_are_smooth() -> None:
    found = of(torch.full((4, 2, 3, 3), 0.5))
    assert found.difference == 0.0
    assert found.roughness == 0.0
    assert found.energy == pytest.approx(8 * 9 * 0.25)
    assert found.score == pytest.approx(-found.energy)
    assert found.high_frequency_share == pytest.approx(0.1455, abs=1e-4)
    assert of(torch.ones(1, 1, 31, 31)).high_frequency_share < 0.05


def test_a_checkerboard_is_as_rough_as_can_be() -> None:
    board = of(checkerboard(3, 3))
    assert board.difference == 12 * 4.0
    assert board.high_frequency_share == pytest.approx(0.994, abs=1e-3)
    rough = of(torch.randn(50, 50, 3, 3, generator=torch.Generator().manual_seed(0)))
    smooth = of(torch.ones(1, 1, 3, 3))
    assert smooth.roughness < rough.roughness < board.roughness
    assert smooth.high_frequency_share < rough.high_frequency_share < board.high_frequency_share


@pytest.mark.parametrize("spatial", [(5,), (3, 3), (2, 3, 3)])
def test_white_noise_has_the_documented_mean(spatial: tuple[int, ...]) -> None:
    found = of(torch.randn(200, 100, *spatial, generator=torch.Generator().manual_seed(0)))
    assert found.high_frequency_share == pytest.approx(1 - 0.5 ** len(spatial), abs=5e-3)
    pairs = sum(math.prod(spatial) // n * (n - 1) for n in spatial)
    assert found.roughness == pytest.approx(2 * pairs / math.prod(spatial), rel=2e-2)


def test_zero_weights_and_no_weights() -> None:
    for weight in (torch.zeros(2, 2, 3, 3), torch.zeros(0, 2, 3, 3)):
        found = of(weight)
        assert (found.roughness, found.high_frequency_share, found.energy) == (0.0, 0.0, 0.0)


def test_an_overflowing_penalty_is_reported() -> None:
    found = of(checkerboard(3, 3) * 30)
    assert found.penalty == math.inf
    assert found.roughness == pytest.approx(48 / 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_weights_are_summed_in_float64(dtype: torch.dtype) -> None:
    weight = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert of(weight) == of(weight.double())
    with torch.autocast("cpu"):
        assert of(weight) == of(weight.double())


def test_of_a_regularizer(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, 5.0, coefficients={"*": 7.0}, exponentiate="layer", reduction="mean")
    model.first.weight.requires_grad_(False)
    first, second = reg.statistics()
    assert [first.name, second.name] == reg.names
    for found, weight in ((first, model.first.weight), (second, model.second.weight)):
        expected = reference.smooth_kernel_penalty([weight], exponentiate="layer", reduction="mean")
        assert found.penalty == pytest.approx(expected.item(), rel=1e-12)


def test_the_table_is_aligned_and_complete(model: nn.Module) -> None:
    lines = format_statistics(SmoothKernelRegularizer(model).statistics()).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:4] == ["layer", "shape", "kernels", "difference"]
    assert lines[1].split()[:3] == ["first.weight", "4x2x3x3", "8"]
    assert lines[2].split()[:3] == ["second.weight", "3x4x1x5", "12"]
    assert float(lines[1].split()[-1]) == pytest.approx(of(model.first.weight).high_frequency_share, abs=1e-4)
