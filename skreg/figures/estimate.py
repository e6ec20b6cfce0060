"""How long figures will take: the passes that each needs, times how long a pass takes here."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Sequence

import torch
from torch import nn

from skreg.attacks import attack_mode
from skreg.figures import activation, deceptive, fourier, targeted
from skreg.figures.gallery import evaluated_names, figure_names
from skreg.figures.lineup import Lineup, line_up
from skreg.training import Run

BATCH = 16  # images of the pass that is timed
_RUNGS = 3  # of the ladder of eps, until a targeted attack succeeds


def estimate_seconds(
    runs: Sequence[Run],
    *,
    only: Collection[str] | None = None,
    quick: bool = False,
    device: str | torch.device | None = None,
    data_root: str | os.PathLike[str] | None = None,
) -> dict[str, float]:
    """About how many seconds each figure takes that `draw` would compute from the start, by name.

    One pass of every net is timed. How many passes an attack needs depends on the net: expect half or twice as much.
    Figures that only read files are at 0; writing pictures is not counted.

    Args:
        runs, only, quick, device, data_root: as in `skreg.figures.draw`.

    Raises:
        TypeError, ValueError, RunError: as `draw` does.
    """
    names = evaluated_names(figure_names(only), runs, only)
    if not any(name in PASSES for name in names):
        return dict.fromkeys(names, 0.0)
    lineup = line_up(runs, quick=quick, device=device, data_root=data_root)
    seconds = sum(_seconds_a_pass(model, lineup) for model in lineup.models.values())
    return {name: seconds * PASSES[name](lineup) if name in PASSES else 0.0 for name in names}


def describe_estimate(seconds: dict[str, float]) -> str:
    """One line for people: the sum, and what takes the largest part of it."""
    slowest = sorted(((each, name) for name, each in seconds.items() if each), reverse=True)[:3]
    parts = ", ".join(f"{name} {_in_words(each)}" for each, name in slowest)
    return f"about {_in_words(sum(seconds.values()))} to compute{parts and ': mostly '}{parts}"


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _seconds_a_pass(model: nn.Module, lineup: Lineup) -> float:
    """The time of one image's logits and their gradient with respect to it, in a batch; the second try counts."""
    images = torch.rand(BATCH, *lineup.info.shape, generator=torch.Generator().manual_seed(0)).to(lineup.device)
    images.requires_grad_(True)
    with attack_mode(model, "eval"), torch.enable_grad():
        for _ in range(2):
            begun = time.perf_counter()
            (gradient,) = torch.autograd.grad(model(images).sum(), images)
            float(gradient.sum())  # waits for a GPU
            seconds = time.perf_counter() - begun
    return seconds / BATCH


# Passes of one net, a forward alone counting half. Numbers of passes an image that end when the attack succeeds were
# counted on the 2-conv nets V and AR of Fashion-MNIST.
def _fourier(lineup: Lineup) -> float:
    height, width = lineup.info.shape[1:]
    return 0.5 * (height * width / 2) * (fourier.QUICK_IMAGES if lineup.quick else fourier.IMAGES)


def _deceptive(lineup: Lineup, an_image: float) -> float:
    candidates = deceptive.QUICK_CANDIDATES if lineup.quick else deceptive.CANDIDATES
    return an_image * candidates * len(lineup.info.classes)


def _activation(lineup: Lineup, setting: str) -> float:
    return activation.SETTINGS[setting].steps * len(lineup.info.classes)


def _targeted(lineup: Lineup, attack: str) -> float:
    effort = targeted.QUICK if lineup.quick else targeted.Effort()
    tries = _RUNGS + effort.bisections
    a_pair = {"pgd": effort.steps * tries, "fgsm": 1.5 * tries, "adef": 75, "cw": 5 * effort.cw_steps}[attack]
    count = len(lineup.info.classes)
    return a_pair * count * (count - 1)


PASSES: dict[str, Callable[[Lineup], float]] = {
    "fourier": _fourier,
    "deceptive-fgsm": lambda lineup: _deceptive(lineup, 60),
    "deceptive-adef": lambda lineup: _deceptive(lineup, 60),
    "activation-fast": lambda lineup: _activation(lineup, "fast"),
    "activation-paper": lambda lineup: _activation(lineup, "paper"),
    "targeted-pgd": lambda lineup: _targeted(lineup, "pgd"),
    "targeted-adef": lambda lineup: _targeted(lineup, "adef"),
    "targeted-fgsm": lambda lineup: _targeted(lineup, "fgsm"),
    "targeted-cw": lambda lineup: _targeted(lineup, "cw"),
}
