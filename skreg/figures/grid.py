"""Images in rows and columns, each with a line or two below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from skreg._extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches.
_SMALLEST, _LARGEST, _PAGE = 0.68, 1.1, 7.0  # sides of a cell, which grows until the cells fill the page
_SPACE, _LINE, _APART = 0.06, 0.125, 0.12
_TOP, _RIGHT, _BOTTOM = 0.34, 0.1, 0.05

# After Okabe and Ito, told apart by the colour-blind; what is written in them has a contrast of 4.5 on white or more.
FRAME, FAILED = "#0072b2", "#b34700"


@dataclass(frozen=True)
class Cell:
    """One image of a grid.

    Attributes:
        image: C H W in [0, 1], with one or three channels.
        text: lines to write below it.
        failed: whether what the cell should show does not exist: the image is faded and crossed out.
        framed: whether it gets a blue frame, for what the others are compared with.
    """

    image: Tensor
    text: str = ""
    failed: bool = False
    framed: bool = False


def image_grid(
    cells: Sequence[Sequence[Cell]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    row_title: str = "",
    column_title: str = "",
    apart: bool = False,
) -> Figure:
    """Lay out `cells` (rows of columns), black at 0 and white at 1 in all of them.

    The figure's axes come row by row.

    Args:
        rows, columns: their titles.
        row_title, column_title: what the titles are.
        apart: whether the first column stands apart from the others.
    """
    side = min(_LARGEST, max(_SMALLEST, _PAGE / len(columns)))
    lines = max(cell.text.count("\n") + 1 if cell.text else 0 for row in cells for cell in row)
    below = lines * _LINE + (0.04 if lines else 0)
    left = 0.2 + 0.075 * max(map(len, rows)) + (0.22 if row_title else 0)
    top = _TOP + (0.22 if column_title else 0)
    shift = _APART if apart else 0.0
    width = left + len(columns) * (side + _SPACE) + shift + _RIGHT
    height = top + len(rows) * (side + below + _SPACE) + _BOTTOM
    figure: Figure = require("matplotlib.figure", "lab").Figure(figsize=(width, height))

    def x_of(column: int) -> float:
        return left + column * (side + _SPACE) + (shift if column else 0)

    for index, row in enumerate(cells):
        bottom = height - top - index * (side + below + _SPACE) - side
        middle = (bottom + side / 2) / height
        figure.text((left - 0.08) / width, middle, rows[index], ha="right", va="center", size=9)
        for column, cell in enumerate(row):
            rectangle = (x_of(column) / width, bottom / height, side / width, side / height)
            axes = figure.add_axes(rectangle)
            _draw_cell(axes, cell)
    size = min(fit(title, side, 9) for title in columns)  # the same for all: none matters more
    for column, title in enumerate(columns):
        centre = (x_of(column) + side / 2) / width
        figure.text(centre, 1 - (top - 0.13) / height, title, ha="center", va="center", size=size, weight="bold")
    if column_title:
        centre = (left + len(columns) * (side + _SPACE) / 2) / width
        figure.text(centre, 1 - 0.14 / height, column_title, ha="center", va="center", size=9, color="0.35")
    if row_title:
        figure.text(0.14 / width, 0.5, row_title, rotation=90, ha="center", va="center", size=9, color="0.35")
    return figure


def fit(title: str, width: float, size: float) -> float:
    """The size, in points and at most `size`, at which a bold `title` is no wider than `width` inches."""
    return min(size, 72 * width / (0.72 * max(1, len(title))))


def _draw_cell(axes: Axes, cell: Cell) -> None:
    picture = cell.image.detach().cpu().float().movedim(0, -1)
    shown = picture[..., 0] if picture.shape[-1] == 1 else picture
    # Matplotlib does not look at the colour map and its limits where there are three channels.
    faded = 0.35 if cell.failed else None
    axes.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", alpha=faded)
    axes.set(xticks=[], yticks=[])
    if cell.failed:
        for ends in ((0, 1), (1, 0)):
            axes.plot((0, 1), ends, transform=axes.transAxes, color=FAILED, linewidth=1.5)
    axes.set_xlabel(cell.text, size=7, labelpad=2, color=FAILED if cell.failed else "0.15")
    for spine in axes.spines.values():
        spine.set(color=FRAME if cell.framed else "0.75", linewidth=2 if cell.framed else 0.5)
