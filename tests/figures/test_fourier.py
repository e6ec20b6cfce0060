from __future__ import annotations

import numpy as np
import pytest
import torch

from skreg.figures import fourier_maps


def maps(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.rand(8, 6) * (0.2 + 0.1 * index) for index, name in enumerate(names)}


def panels_of(figure):
    return [axes for axes in figure.axes if axes.get_title()]  # not the colour bar


def test_maps_are_the_numbers_in_the_same_colours():
    errors = maps("V", "VR", "A", "AR")
    panels = panels_of(fourier_maps(errors))
    highest = max(float(each.max()) for each in errors.values())
    assert len(panels) == 4
    for axes, (name, expected) in zip(panels, errors.items(), strict=True):
        (shown,) = axes.images
        np.testing.assert_array_equal(np.asarray(shown.get_array()), expected)
        assert shown.get_clim() == pytest.approx((0, highest))
        assert axes.get_title() == f"{name}: mean {float(expected.mean()):.0%}"


def test_frequency_0_is_where_the_axes_say():
    errors = {"V": torch.zeros(8, 6)}
    errors["V"][4, 3] = 1
    (axes,) = panels_of(fourier_maps(errors))
    left, right, bottom, top = axes.images[0].get_extent()
    assert left + (right - left) * (3 + 0.5) / 6 == pytest.approx(0)
    assert top + (bottom - top) * (4 + 0.5) / 8 == pytest.approx(0)
    assert left + (right - left) * 0.5 / 6 == pytest.approx(-0.5)


def test_a_column_a_loss():
    figure = fourier_maps(maps("V", "VR", "VH", "A", "AR"))
    figure.draw_without_rendering()
    centres = {axes.get_title().split(":")[0]: axes.get_position() for axes in panels_of(figure)}
    assert centres["V"].x0 == pytest.approx(centres["VR"].x0, abs=0.02)
    assert centres["V"].y0 > centres["VR"].y0 > centres["VH"].y0
    assert centres["V"].x1 < centres["A"].x0
    assert centres["VR"].y0 == pytest.approx(centres["AR"].y0, abs=0.02)


def test_no_errors_at_all():
    (axes,) = panels_of(fourier_maps({"V": torch.zeros(4, 4)}))
    assert axes.images[0].get_clim() == (0, 1)


def test_errors():
    with pytest.raises(ValueError, match="errors: expected at least one"):
        fourier_maps({})
    with pytest.raises(ValueError, match="expected maps H W of one shape"):
        fourier_maps({"V": torch.zeros(4, 4), "VR": torch.zeros(4, 5)})
    with pytest.raises(ValueError, match="expected maps H W of one shape"):
        fourier_maps({"V": torch.zeros(1, 4, 4)})
