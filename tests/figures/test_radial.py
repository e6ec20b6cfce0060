from __future__ import annotations

import matplotlib.colors
import numpy as np
import pytest
import torch
from torch import nn

from skreg.figures import radial_power
from skreg.figures.radial import RINGS, radial_spectra


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 6, 5), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 8, 3))


def spectrum_of(kernel: torch.Tensor):
    model = nn.Conv2d(1, 1, kernel.shape[-1], bias=False)
    model.weight.data.copy_(kernel)
    return radial_spectra(model)["weight"]


def test_power_is_relative_to_its_mean_whatever_the_norm():
    model = net()
    before = radial_spectra(model)
    assert list(before) == ["0.weight", "2.weight"]  # 1x1 kernels have one frequency
    for parameter in model.parameters():
        parameter.data *= 7
    for name, spectrum in radial_spectra(model).items():
        assert spectrum.frequency.shape == spectrum.power.shape == spectrum.size.shape == (RINGS,)
        assert float((spectrum.power * spectrum.size).sum()) == pytest.approx(1)
        assert float(spectrum.size.sum()) == pytest.approx(1)
        torch.testing.assert_close(spectrum.power, before[name].power)


def test_one_ring_computed_by_hand():
    kernel = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    power = np.abs(np.fft.fft2(np.pad(kernel.numpy().astype(float), ((0, 59), (0, 59))))) ** 2
    frequency = np.fft.fftfreq(64)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    width = 0.5**0.5 / RINGS
    inside = (radius >= 7 * width) & (radius < 8 * width)
    spectrum = spectrum_of(kernel)
    assert float(spectrum.power[7]) == pytest.approx(power[inside].mean() / power.mean(), rel=1e-5)
    assert float(spectrum.frequency[7]) == pytest.approx(7.5 * width)


def test_known_kernels():
    impulse = torch.zeros(3, 3)
    impulse[1, 1] = 2
    torch.testing.assert_close(spectrum_of(impulse).power, torch.ones(RINGS, dtype=torch.float64))
    assert int(spectrum_of(torch.ones(5, 5)).power.argmax()) == 0
    checkerboard = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
    assert int(spectrum_of(checkerboard).power.argmax()) == RINGS - 1
    assert not spectrum_of(torch.zeros(3, 3)).power.any()


def test_lines_are_the_numbers_and_styles_say_the_penaltys_sign():
    models = {"V": net(), "VR": net(1), "VH": net(2), "A": net(3), "AR": net(4)}
    figure = radial_power(models)
    panels = np.array(figure.axes).reshape(2, 2)  # layers, losses
    assert [panel.get_title() for panel in panels[0]] == ["cross-entropy (V)", "adversarial training (A)"]
    assert len({panel.get_ylim() for panel in figure.axes}) == 1
    groups = (("V", "VR", "VH"), ("A", "AR"))
    for row, layer in zip(panels, ("0.weight", "2.weight"), strict=True):
        for panel, names in zip(row, groups, strict=True):
            lines = panel.lines[1:]  # the first is white noise
            for line, name in zip(lines, names, strict=True):
                spectrum = radial_spectra(models[name])[layer]
                np.testing.assert_array_equal(line.get_ydata(), spectrum.power)
                np.testing.assert_array_equal(line.get_xdata(), spectrum.frequency)
            assert [line.get_linestyle() for line in lines] == ["--", "-", ":"][: len(names)]
            assert len({matplotlib.colors.to_hex(line.get_color()) for line in lines}) == len(names)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == ["no penalty", "with the penalty (R)", "against it (H)"]


def test_names_that_are_no_variants_are_told_apart_too():
    figure = radial_power({"seed0": net(), "seed1": net(1)})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == ["seed0", "seed1"]
    assert len({line.get_color() for line in figure.axes[0].lines[1:]}) == 2


def test_errors():
    with pytest.raises(ValueError, match="models: expected at least one"):
        radial_power({})
    with pytest.raises(ValueError, match="kernels larger than 1x1, found none"):
        radial_power({"V": nn.Sequential(nn.Conv2d(1, 2, 1), nn.Linear(2, 2))})
    other = nn.Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(
        ValueError, match=r'expected the same layers in all, found 0.weight, 2.weight in "V" and 0.weig'
    ):
        radial_power({"V": net(), "VR": other})
