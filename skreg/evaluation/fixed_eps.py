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

Attack = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


def fixed_radius_pgd(eps: float, *, steps: int = 40, restarts: int = 2) -> tuple[PGD, PGD]:
    """The PGD that the tables report at radius `eps`: with cross-entropy, and with the margin loss.

    Cross-entropy alone is blind where logits are wide: its gradient vanishes. The margin's does not. Of several
    restarts each works on the survivors of those before it.
    """
    return (
        PGD(eps=eps, steps=steps, restarts=restarts, objective="cross_entropy"),
        PGD(eps=eps, steps=steps, restarts=restarts, objective="margin"),
    )


ATTACKS_AT_EPS: dict[str, Attack] = {
    "fgsm": lambda forward, images, labels, eps: FGSM(eps=eps)(forward, images, labels),
    "pgd_ce": lambda forward, images, labels, eps: fixed_radius_pgd(eps)[0](forward, images, labels),
    "pgd_margin": lambda forward, images, labels, eps: fixed_radius_pgd(eps)[1](forward, images, labels),
    "random_search": random_search,
    "autoattack": autoattack,
}
