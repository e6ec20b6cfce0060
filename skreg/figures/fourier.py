"""Error rates under each Fourier basis vector, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from skreg._extras import require
from skreg.figures.styles import group_by_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL = 1.75  # inches


def fourier_maps(errors: Mapping[str, Tensor]) -> Figure:
    """Draw the map of each model, a column a loss, all in the same colours: black 0, brightest the largest error rate.

    Args:
        errors: H W by model, error rates in [0, 1], zero frequency in the middle (at H // 2, W // 2).

    Raises:
        ValueError: no models, or maps of different or other shapes.
    """
    if not errors:
        raise ValueError("errors: expected at least one model's map, found none")
    shapes = {name: tuple(each.shape) for name, each in errors.items()}
    if len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 2:
        raise ValueError(f"errors: expected maps H W of one shape, found {shapes}")
    groups = group_by_loss(errors)
    rows = max(map(len, groups.values()))
    highest = max(float(each.max()) for each in errors.values())
    size = (1.5 + _PANEL * len(groups), 0.8 + (_PANEL + 0.2) * rows)
    figure: Figure = require("matplotlib.figure", "lab").Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(rows, len(groups))
    height, width = next(iter(shapes.values()))
    (left, right), (top, bottom) = _edges(width), _edges(height)
    for column, names in enumerate(groups.values()):
        for row, name in enumerate(names):
            axes = figure.add_subplot(grid[row, column])
            shown = axes.imshow(
                errors[name].numpy(),
                cmap="magma",
                vmin=0,
                vmax=highest or 1,
                extent=(left, right, bottom, top),
                interpolation="nearest",
            )
            axes.set_title(f"{name}: mean {float(errors[name].mean()):.0%}", size=10)
            ticks = (-0.4, 0, 0.4)
            axes.set(xticks=ticks if row == len(names) - 1 else (), yticks=ticks if column == 0 else ())
            axes.tick_params(labelsize=8)
    figure.colorbar(shown, ax=figure.axes, label="error rate", fraction=0.05, pad=0.02)
    figure.supxlabel("horizontal frequency, cycles a pixel", size=10)
    figure.supylabel("vertical frequency", size=10)
    return figure


def _edges(side: int) -> tuple[float, float]:
    """The outer edges of the first and the last frequency, in cycles a pixel."""
    frequencies = torch.fft.fftshift(torch.fft.fftfreq(side, dtype=torch.float64))
    return float(frequencies[0]) - 0.5 / side, float(frequencies[-1]) + 0.5 / side
