"""Error rates under each Fourier basis vector, side by side: what the paper's section 3 claims of smooth nets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from skreg._extras import require
from skreg.evaluation.frequency import fourier_error
from skreg.figures.drawing import Drawing
from skreg.figures.lineup import Lineup
from skreg.figures.numbers import digest, of_each_model
from skreg.figures.styles import group_by_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NORM = 4.0  # l2, as Yin et al. have it for CIFAR-10
IMAGES, QUICK_IMAGES = 300, 50
REPORT_EVERY = 50

_PANEL = 1.75  # inches
_TICKS = (-0.4, 0, 0.4)  # cycles a pixel


def fourier_maps(errors: Mapping[str, Tensor]) -> Figure:
    """Draw the map of each model, a column a loss, all in the same colours: black 0, brightest the largest error rate.

    Args:
        errors: H W by model, error rates in [0, 1], zero frequency in the middle (at H // 2, W // 2), as
            `skreg.evaluation.frequency.fourier_error` returns them.

    Raises:
        ValueError: no models, or maps of different or other shapes.
    """
    if not errors:
        raise ValueError("errors: expected at least one model's map, found none")
    shapes = {name: tuple(each.shape) for name, each in errors.items()}
    shape = next(iter(shapes.values()))
    if len(set(shapes.values())) > 1 or len(shape) != 2:
        raise ValueError(f"errors: expected maps H W of one shape, found {shapes}")
    groups = group_by_loss(errors)
    rows = max(map(len, groups.values()))
    highest = max(float(each.max()) for each in errors.values())
    size = (1.5 + _PANEL * len(groups), 0.8 + (_PANEL + 0.2) * rows)
    figure: Figure = require("matplotlib.figure", "lab").Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(rows, len(groups))
    (top, bottom), (left, right) = _edges(shape[0]), _edges(shape[1])
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
            axes.set_xticks(_TICKS if row == len(names) - 1 else [])
            axes.set_yticks(_TICKS if column == 0 else [])
            axes.tick_params(labelsize=8)
    figure.colorbar(shown, ax=figure.axes, label="error rate", fraction=0.05, pad=0.02)
    figure.supxlabel("horizontal frequency, cycles a pixel", size=10)
    figure.supylabel("vertical frequency", size=10)
    return figure


def _edges(side: int) -> tuple[float, float]:
    """The outer edges of the first and the last frequency, in cycles a pixel."""
    first = -(side // 2) - 0.5
    return first / side, first / side + 1


def draw_fourier(lineup: Lineup) -> Iterator[Drawing]:
    """The error rate of each model under each Fourier basis vector."""
    images, labels = lineup.test_images(QUICK_IMAGES if lineup.quick else IMAGES)

    def compute(model: nn.Module, told: Callable[[str], None]) -> dict[str, Tensor]:
        def every_so_often(done: int, vectors: int) -> None:
            if done % REPORT_EVERY == 0:
                told(f"vector {done} of {vectors}")

        return {"errors": fourier_error(model, images, labels, norm=NORM, seed=lineup.seed, progress=every_so_often)}

    facts = {
        "figure": "fourier",
        "norm": NORM,
        "seed": lineup.seed,
        "images": digest({"images": images, "labels": labels}),
    }
    errors = {name: kept["errors"] for name, kept in of_each_model(lineup, "fourier", facts, compute)}
    yield Drawing(
        name="fourier",
        title="Errors by the frequency of a perturbation",
        caption=f"Share of {len(images)} test images of {lineup.info.name} that each model misclassifies when one "
        f"Fourier basis vector of l2 norm {NORM:g} is added to every channel, with random signs (seed {lineup.seed}), "
        f"and the sum is clipped to [0, 1]. Frequency 0 is in the middle. All maps have the same colours; the mean "
        "over all frequencies is written above each. In the columns, the model without penalty, then with it (R), then "
        "against it (H), where there are such. Best weights of each run.",
        alt="Square heat maps of error rates over horizontal and vertical frequency, one for each of "
        + ", ".join(f"{name} (mean {float(each.mean()):.0%})" for name, each in errors.items())
        + ".",
        figure=fourier_maps(errors),
    )
