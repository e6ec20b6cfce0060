"""Panels of lines, a line a run: one colour a loss; R solid, plain dashed, H dotted, as in the paper's curves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from skreg._extras import require
from skreg.training import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# After Okabe and Ito, darkened to a contrast of 3 on white or more; the colour-blind tell them apart.
COLOURS = {"V": "#0072b2", "T": "#d55e00", "A": "#00805a", "L": "#aa4499"}
DASHES = {"": "--", "R": "-", "H": ":"}

# Inches: of a panel, and for the legend.
_WIDTH, _HEIGHT, _BASE = 2.9, 2.35, 0.75


def style(run: Run) -> dict[str, Any]:
    """Colour and dashes of a run's line."""
    variant = run.config.variant
    return {"color": COLOURS[variant[0]], "linestyle": DASHES[variant[1:]], "linewidth": 1.6}


def panels(titles: Iterable[str], runs: Mapping[str, Run], *, across: int = 4) -> tuple[Figure, list[Axes]]:
    """A figure with a panel a title, `across` in a row, and one legend of the runs' variants below.

    Runs of one variant share a line in the legend, which says how many they are.
    """
    names = list(titles)
    across = min(across, len(names))
    down = math.ceil(len(names) / across)
    figure_class = require("matplotlib.figure", "lab").Figure
    size = (max(across, 2) * _WIDTH, down * _HEIGHT + _BASE)
    figure: Figure = figure_class(figsize=size, layout="constrained")
    axes = []
    for index, name in enumerate(names):
        panel = figure.add_subplot(down, across, index + 1)
        panel.set_title(name, size=10)
        panel.grid(color="0.9", linewidth=0.6)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        axes.append(panel)
    groups = by_variant(runs)
    line = require("matplotlib.lines", "lab").Line2D
    handles = [
        line([], [], label=variant if len(same) == 1 else f"{variant} ({len(same)} runs)", **style(same[0]))
        for variant, same in groups.items()
    ]
    counts = Counter(variant[0] for variant in groups)
    columns = len(counts) if len(set(counts.values())) == 1 else 6  # a loss a column, where all have as many
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=3)
    return figure, axes


def by_variant(runs: Mapping[str, Run]) -> dict[str, list[Run]]:
    """The runs of each variant, in the order in which they come."""
    groups: dict[str, list[Run]] = {}
    for run in runs.values():
        groups.setdefault(run.config.variant, []).append(run)
    return groups
