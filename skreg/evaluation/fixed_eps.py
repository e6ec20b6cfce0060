"""Attacks within a fixed linf distance, for accuracy at the eps that a model was trained for.

Each takes correctly classified images and returns a candidate within eps for each of them, or some point that fools
nothing. They judge nothing: `skreg.evaluation.run_attack` recomputes success from the logits.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from skreg.attacks import FGSM, PGD
from skreg.evaluation.autoattack import autoattack
from skreg.evaluation.random_search import random_search

PGD_STEPS = 40
PGD_RESTARTS = 2  # the second on the survivors of the first

Attack = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


def _fgsm(forward: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    return FGSM(eps=eps)(forward, images, labels)


def _pgd_ce(forward: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    return PGD(eps=eps, steps=PGD_STEPS, restarts=PGD_RESTARTS)(forward, images, labels)


def _pgd_margin(forward: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    return PGD(eps=eps, steps=PGD_STEPS, restarts=PGD_RESTARTS, objective="margin")(forward, images, labels)


ATTACKS_AT_EPS: dict[str, Attack] = {
    "fgsm": _fgsm,
    "pgd_ce": _pgd_ce,
    # Cross-entropy alone is blind where logits are wide: its gradient vanishes. The margin's does not.
    "pgd_margin": _pgd_margin,
    "random_search": random_search,
    "autoattack": autoattack,
}
