"""The power of every layer's kernels by frequency: what the paper's section 3 claims of smooth kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from skreg._extras import require
from skreg.figures.drawing import Drawing
from skreg.figures.kernels import spectra
from skreg.figures.lineup import Lineup
from skreg.figures.styles import MEANING, group_by_loss, line_styles
from skreg.training import VARIANTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

RINGS = 24  # of equal width, from frequency 0 to that of a checkerboard
_HIGHEST = 0.5**0.5  # cycles a pixel: 1/2 along both axes
_PIECE = 1024  # kernels transformed at once: padded, the 2 million of a ResNet would take gigabytes


@dataclass(frozen=True)
class RadialSpectrum:
    """The power of one layer's kernels by distance from frequency 0.

    Attributes:
        frequency: `RINGS`, the middle of each ring, in cycles a pixel.
        power: `RINGS`, mean of |K(f)|^2 over the layer's kernels and the ring's frequencies, divided by its mean over
            all frequencies: 1 everywhere for white noise. 0 for zero weights.
        size: `RINGS`, the share of all frequencies that lie in the ring, so that `(power * size).sum()` is 1.
    """

    frequency: Tensor
    power: Tensor
    size: Tensor


@torch.no_grad()
def radial_spectra(model: nn.Module) -> dict[str, RadialSpectrum]:
    """The spectrum of each 2-D conv weight with kernels larger than 1x1, by the parameter's name.

    Raises:
        ValueError: the model has no such weight.
    """
    found = {
        f"{name}.weight".removeprefix("."): _radial(module.weight.detach())
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight[0, 0].numel() > 1
    }
    if not found:
        raise ValueError("model: expected a 2-D convolution with kernels larger than 1x1, found none")
    return found


def _radial(weight: Tensor) -> RadialSpectrum:
    kernels = weight.double().cpu().flatten(0, 1)
    sums = [spectra(kernels[i : i + _PIECE]).square().sum(dim=0) for i in range(0, len(kernels), _PIECE)]
    power = torch.stack(sums).sum(dim=0) / len(kernels)
    along = [torch.fft.fftshift(torch.fft.fftfreq(side, dtype=torch.float64)) for side in power.shape]
    radius = torch.hypot(along[0][:, None], along[1][None, :])
    ring = (radius / _HIGHEST * RINGS).long().clamp(max=RINGS - 1).flatten()
    count = torch.bincount(ring, minlength=RINGS).double()
    total = torch.bincount(ring, weights=power.flatten(), minlength=RINGS)
    mean = power.mean()
    return RadialSpectrum(
        frequency=(torch.arange(RINGS, dtype=torch.float64) + 0.5) / RINGS * _HIGHEST,
        power=total / count / mean if mean > 0 else torch.zeros(RINGS, dtype=torch.float64),
        size=count / count.sum(),
    )


def radial_power(models: Mapping[str, nn.Module]) -> Figure:
    """Draw the radial power spectrum of every layer: a row a layer, a column a loss, a line a model.

    All panels share their axes. Models of the paper's names are dashed without penalty, solid with it (R) and dotted
    against it (H).

    Args:
        models: nets by name.

    Raises:
        ValueError: no models, a model without 2-D convolutions, or models whose layers differ.
    """
    if not models:
        raise ValueError("models: expected at least one, found none")
    lines = {name: radial_spectra(model) for name, model in models.items()}
    first, layers = next((name, list(spectrum)) for name, spectrum in lines.items())
    for name, spectrum in lines.items():
        if list(spectrum) != layers:
            raise ValueError(
                f'models: expected the same layers in all, found {", ".join(layers)} in "{first}" '
                f'and {", ".join(spectrum)} in "{name}"'
            )
    return _panels(lines, layers)


def _panels(lines: Mapping[str, Mapping[str, RadialSpectrum]], layers: list[str]) -> Figure:
    groups, styles = group_by_loss(lines), line_styles(lines)
    labels = {name: MEANING[name[1:]] if name in VARIANTS else name for name in lines}
    width, height = 1.2 + 2.2 * max(2, len(groups)), 1.1 + 1.5 * len(layers)
    figure: Figure = require("matplotlib.figure", "lab").Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(len(layers), len(groups), sharex=True, sharey=True, squeeze=False)
    handles: dict[str, Line2D] = {}
    for row, layer in zip(axes, layers, strict=True):
        for panel, (title, names) in zip(row, groups.items(), strict=True):
            panel.axhline(1, color="0.8", linewidth=1, zorder=0)
            for name in names:
                spectrum = lines[name][layer]
                (line,) = panel.plot(spectrum.frequency, spectrum.power, linewidth=1.6, **styles[name])
                handles[labels[name]] = line
            panel.set(yscale="log", xlim=(0, _HIGHEST), xticks=(0, 0.25, 0.5))
            panel.grid(color="0.92")
            panel.tick_params(labelsize=8)
            if panel in axes[0]:
                panel.set_title(title, size=10)
        row[0].set_ylabel(layer.removesuffix(".weight"), size=9)
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    figure.supxlabel("spatial frequency, cycles a pixel", size=10)
    figure.supylabel("power (white noise: 1)", size=10)
    return figure


def draw_radial(lineup: Lineup) -> Iterator[Drawing]:
    """The radial power spectrum of every layer."""
    layers = ", ".join(radial_spectra(next(iter(lineup.models.values()))))
    yield Drawing(
        name="radial",
        title="Power of the kernels by frequency",
        caption="Mean power spectrum of all kernels of a layer (rows) over rings around frequency 0, relative to its "
        "mean over all frequencies: white noise is at 1, smooth kernels fall from left to right. 0.5 is the highest "
        "frequency along an axis, the right edge that of a checkerboard. Solid: with the penalty (R); dashed: without; "
        "dotted: against it (H). Kernels are padded with zeros to 64 x 64. Best weights of each run.",
        alt=f"Line charts of power against spatial frequency for the layers {layers}, a line for each of "
        f"{', '.join(lineup.models)}.",
        figure=radial_power(lineup.models),
    )
