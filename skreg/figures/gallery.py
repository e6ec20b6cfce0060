"""All figures of trained runs, by name. A new one is a function from `Lineup` to drawings, and a line here."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import torch

from skreg.evaluation import has_results
from skreg.figures.activation import draw_activation
from skreg.figures.curves import draw_curves
from skreg.figures.deceptive import draw_deceptive
from skreg.figures.drawing import Drawing
from skreg.figures.fourier import draw_fourier
from skreg.figures.kernels import draw_kernels
from skreg.figures.lineup import Lineup, line_up
from skreg.figures.radial import draw_radial
from skreg.figures.targeted import draw_targeted
from skreg.figures.training import draw_training
from skreg.training import Run

__all__ = ["FIGURES", "GROUPS", "ON_REQUEST", "Drawing", "draw"]

# A function yields one drawing or, as the targeted ones, one a model.
FIGURES: dict[str, Callable[[Lineup], Iterable[Drawing]]] = {
    "kernels": draw_kernels,
    "curves": draw_curves,
    "training": draw_training,
    "radial": draw_radial,
    "fourier": draw_fourier,
    "deceptive-fgsm": functools.partial(draw_deceptive, attack="fgsm"),
    "deceptive-adef": functools.partial(draw_deceptive, attack="adef"),
    "activation-fast": functools.partial(draw_activation, setting="fast"),
    "activation-paper": functools.partial(draw_activation, setting="paper"),
    "targeted-pgd": functools.partial(draw_targeted, attack="pgd"),
    "targeted-adef": functools.partial(draw_targeted, attack="adef"),
    "targeted-fgsm": functools.partial(draw_targeted, attack="fgsm"),
    "targeted-cw": functools.partial(draw_targeted, attack="cw"),
}

# Drawn only when they are named: minutes a model on a CPU or, FGSM, of little worth (one step).
ON_REQUEST = ("fourier", "activation-paper", "targeted-fgsm", "targeted-cw")
OF_EVALUATIONS = ("curves",)  # left out where a run was not evaluated, unless they are named
GROUPS = {"default": tuple(name for name in FIGURES if name not in ON_REQUEST), "all": tuple(FIGURES)}


def draw(
    runs: Sequence[Run],
    *,
    only: Collection[str] | None = None,
    seed: int = 0,
    quick: bool = False,
    device: str | torch.device | None = None,
    data_root: str | os.PathLike[str] | None = None,
    numbers: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Drawing]:
    """Draw `runs` as the paper does, one figure after the other.

    Options and runs are checked at once; each figure is computed when it is asked for.

    Args:
        runs: of one data set, in any order; they are drawn in the order V VR VH T TR TH A AR AH L LR LH, with the
            weights of their best epochs.
        only: names in `FIGURES`, or "default" (also None: all but those `ON_REQUEST`) and "all". Those
            `OF_EVALUATIONS` are left out unless all runs were evaluated or they are named themselves.
        seed: of everything random: the noise that activation maximisation starts from, and the attacks.
        quick: fewer images and steps; the captions say how many.
        device: where to compute; None for a GPU where there is one.
        data_root: folder of the data set; None for the one used in training.
        numbers: folder to keep what took long to compute, one file a figure and model. Drawing the same again
            reads it; other weights or options make other files. None to keep nothing.
        progress: is called with a line before each step.

    Raises:
        ValueError: no runs, runs of several data sets, or an unknown figure.
        RunError: a run has no weights, or damaged ones.
    """
    names = evaluated_names(figure_names(only), runs, only)
    lineup = line_up(
        runs, seed=seed, quick=quick, device=device, data_root=data_root, numbers=numbers, progress=progress
    )
    return _draw(lineup, names)


def figure_names(only: Collection[str] | None) -> list[str]:
    """The figures to draw, in the order of `FIGURES`: those that `only` names, by itself or as a group.

    Raises:
        TypeError, ValueError: a string, no names, or unknown ones.
    """
    if isinstance(only, str):
        raise TypeError(f"only: expected a collection of names, found the string {only!r}")
    wanted = ["default"] if only is None else list(only)
    unknown = [name for name in wanted if name not in FIGURES and name not in GROUPS]
    if unknown or not wanted:
        found = ", ".join(map(repr, unknown)) or "none"
        raise ValueError(f"only: expected names among {', '.join([*FIGURES, *GROUPS])}, found {found}")
    chosen = {each for name in wanted for each in GROUPS.get(name, (name,))}
    return [name for name in FIGURES if name in chosen]


def evaluated_names(names: Sequence[str], runs: Sequence[Run], only: Collection[str] | None) -> list[str]:
    """`names` without those that need evaluations, if some run has none, unless `only` says the name itself."""
    evaluated = all(has_results(run) for run in runs)
    return [name for name in names if evaluated or name not in OF_EVALUATIONS or name in (only or ())]


def _draw(lineup: Lineup, names: Sequence[str]) -> Iterator[Drawing]:
    for name in names:
        lineup.told(name)
        yield from FIGURES[name](lineup)
