"""Accuracy against the bound on the perturbation: the paper's Figures 7 to 9."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from skreg.evaluation import ATTACKS, NORMS, Curve, RunResults, read_results
from skreg.evaluation.table import TITLES
from skreg.figures.drawing import Drawing
from skreg.figures.lines import by_variant, panels, style
from skreg.figures.lineup import Lineup, check_runs
from skreg.training import Run, RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 0.98  # a panel ends where this share of each model's adversarials is found
_ACROSS = 4  # panels in a row, at most

_BOUNDED = {
    "l0": "number of values that may change",
    "l2": "Euclidean norm of the change",
    "linf": "largest change of a value",
}


def accuracy_curves(
    runs: Mapping[str, Run], results: Mapping[str, RunResults], norm: str, *, mark: float | None = None
) -> Figure:
    """Draw accuracy against the bound on one norm, a panel an attack and a line a run, with 95% intervals.

    The lines are steps: each falls at the distances of the adversarials that were found (`skreg.evaluation.Curve`).
    All lines of a panel are of the same images.

    Args:
        runs: by name.
        results: of each run, by the same names, as `skreg.evaluation.read_results` reads them.
        norm: one of `skreg.evaluation.NORMS`.
        mark: a bound to mark by a vertical line, such as eps of training; None for no mark.

    Raises:
        ValueError: no runs, or no such norm.
        RunError: two runs were attacked on different images.
    """
    check_runs(runs)
    attacks = _attacks(results)
    across = math.ceil(len(attacks) / math.ceil(len(attacks) / _ACROSS))
    figure, axes = panels((TITLES[attack] for attack in attacks), runs, across=across)
    remarks = []
    for index, (panel, attack) in enumerate(zip(axes, attacks, strict=True)):
        curves = panel_curves(runs, results, attack, norm)
        for name, curve in curves.items():
            _draw_curve(panel, curve, runs[name])
        panel.set_xlim(0, _end(curves.values()))
        panel.set_xlabel(f"{norm} bound", size=9)
        if index % across == 0:
            panel.set_ylabel("accuracy", size=9)
        if mark is not None:
            panel.axvline(mark, color="0.35", linewidth=0.8)
        remarks.append(_remarks(curves, runs))
    # Above 1, where no line can be.
    top = 1.05 + 0.09 * max(text.count("\n") + 1 for text in remarks)
    for panel, text in zip(axes, remarks, strict=True):
        panel.set_ylim(-0.02, top)
        panel.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        panel.text(
            0.99, 0.99, text, transform=panel.transAxes, ha="right", va="top", size=6.5, color="0.2", parse_math=False
        )
    return figure


def panel_curves(
    runs: Mapping[str, Run], results: Mapping[str, RunResults], attack: str, norm: str
) -> dict[str, Curve]:
    """The curves of one panel by run, all of the same images; runs without results of the attack are left out.

    Raises:
        ValueError: no such norm.
        RunError: two runs were attacked on different images.
    """
    names = [name for name in runs if attack in results[name].results]
    count = min(len(results[name].images[attack]) for name in names)
    first = results[names[0]].images[attack][:count]
    for name in names:
        if not torch.equal(results[name].images[attack][:count], first):
            raise RunError(
                f"{runs[name].path} and {runs[names[0]].path} were attacked by {attack} on different images, so that "
                "their curves cannot be compared; evaluate both on the same data"
            )
    return {name: results[name].curve(attack, norm, count) for name in names}


def draw_curves(lineup: Lineup) -> Iterator[Drawing]:
    """A drawing for each norm, of all runs and attacks.

    Raises:
        RunError: a run was not evaluated, or is another one than was evaluated.
    """
    results = {name: read_results(run) for name, run in lineup.runs.items()}
    radii = {run.config.eps for run in lineup.runs.values()}
    eps = radii.pop() if len(radii) == 1 else None
    for norm in NORMS:
        mark = eps if norm == "linf" else None
        yield Drawing(
            name=f"curves-{norm}",
            title=f"Accuracy against the {norm} bound",
            caption=_caption(lineup.info.name, norm, mark),
            alt=_alt(lineup.runs, results, norm),
            figure=accuracy_curves(lineup.runs, results, norm, mark=mark),
        )


def _attacks(results: Mapping[str, RunResults]) -> list[str]:
    return [attack for attack in ATTACKS if any(attack in each.results for each in results.values())]


def _draw_curve(panel: Axes, curve: Curve, run: Run) -> None:
    bounds, shares = curve.steps()
    bounds.append(10 * bounds[-1] + 1)  # the last step goes on beyond the panel
    shares.append(shares[-1])
    low, high = zip(*(share.interval for share in shares), strict=True)
    look = style(run)
    panel.plot(bounds, [share.value for share in shares], drawstyle="steps-post", **look)
    panel.fill_between(bounds, low, high, step="post", color=look["color"], alpha=0.1, linewidth=0)


def _end(curves: Iterable[Curve]) -> float:
    """Where the panel ends: at the distance of all but the farthest adversarials of each curve."""
    found = [curve.distances[curve.distances.isfinite() & (curve.distances > 0)] for curve in curves]
    return 1.05 * max((float(each.quantile(SHOWN)) for each in found if len(each)), default=1.0)


def _remarks(curves: Mapping[str, Curve], runs: Mapping[str, Run]) -> str:
    """How many images, the share of failed searches by variant, and which runs are missing."""
    shares = []
    for variant, same in by_variant({name: runs[name] for name in curves}).items():
        chosen = [curve for name, curve in curves.items() if runs[name] in same]
        failed, searches = sum(c.failed for c in chosen), sum(c.searches for c in chosen)
        if failed:
            shares.append(f"{variant}\N{NO-BREAK SPACE}{100 * failed / searches:.1f}%")
    lines = [f"{next(iter(curves.values())).total} images"]
    lines += textwrap.wrap(f"failed searches: {', '.join(shares)}" if shares else "no search failed", 34)
    if missing := [name for name in runs if name not in curves]:
        lines += textwrap.wrap(f"not attacked: {', '.join(missing)}", 34)
    return "\n".join(lines)


def _caption(data: str, norm: str, mark: float | None) -> str:
    text = (
        f"Share of the first test images of {data} that are classified rightly when the attack may go as far as the "
        f"bound, with 95% intervals (Wilson). {norm}: {_BOUNDED[norm]}, for pixels in [0, 1]. Each line falls where "
        "the searches of preset paper found the closest adversarials; nothing was clipped to a bound. Images that are "
        "misclassified from the start are errors at bound 0. A failed search counts as right at any bound, and its "
        f"share of the searches is written in the panel. A panel ends where {100 * SHOWN:.0f}% of each net's "
        "adversarials are found. One colour a loss; R solid, without penalty dashed, H dotted."
    )
    return text + (f" The grey line marks eps {mark:g}, the radius of training and validation." if mark else "")


def _alt(runs: Mapping[str, Run], results: Mapping[str, RunResults], norm: str) -> str:
    """The bound at which each run's accuracy has halved, by the first attack."""
    attack = _attacks(results)[0]
    halves = []
    for name, curve in panel_curves(runs, results, attack, norm).items():
        bounds, shares = curve.steps()
        half = next(
            (eps for eps, share in zip(bounds, shares, strict=True) if 2 * share.count <= shares[0].count), None
        )
        halves.append(f"{name} never" if half is None else f"{name} at {half:.3g}")
    return (
        f"Falling step curves of accuracy against the {norm} bound, a panel an attack. Under {attack} accuracy has "
        f"halved: {', '.join(halves)}."
    )
