"""The attacks of the preset "foolbox3": what Foolbox 3 does today when its defaults are left alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import skreg.attacks
from skreg._extras import require
from skreg.evaluation import search

DEEPFOOL_NORMS = {"deepfool_l2": 2.0, "deepfool_linf": torch.inf}


def candidates(model: nn.Module, images: Tensor, labels: Tensor, attack: str, *, eps: float | None) -> Tensor:
    """Run one of Foolbox 3's attacks with its defaults, and return the points it ends at.

    Foolbox's own verdict is dropped on purpose: some of its attacks call a failed search a success. Its DeepFool is
    done here, with its constants, because it computes ten forward passes a step and goes on with images that are
    adversarial already.

    Args:
        model: maps images to logits; in the mode wanted, its parameters frozen.
        images: N C H W in [0, 1].
        labels: classes, N.
        attack: one of `skreg.evaluation.ATTACKS`.
        eps: linf radius of fgsm and pgd; None for the others, which search without.

    Returns:
        Candidates, N C H W.
    """
    if attack in DEEPFOOL_NORMS:
        return search.deepfool(
            model,
            images,
            labels,
            norm=DEEPFOOL_NORMS[attack],
            steps=50,
            overshoot=1.02,
            accumulate=True,
            slack=1e-4,
        )
    if attack == "cw":
        return carlini_wagner(model, images, labels)
    foolbox = require("foolbox", "lab")
    attacks: dict[str, Any] = {
        "fgsm": foolbox.attacks.LinfFastGradientAttack,
        "pgd": foolbox.attacks.LinfProjectedGradientDescentAttack,
        "adef": skreg.attacks.ADef,
        "salt_pepper": foolbox.attacks.SaltAndPepperNoiseAttack,
    }
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
    points: Tensor
    _, points, _ = attacks[attack]()(wrapped, images, labels, epsilons=eps)
    return points


def carlini_wagner(model: nn.Module, images: Tensor, criterion: Any, **options: Any) -> Tensor:
    """Foolbox 3's C&W: the closest points that it found, or the image itself where its search failed.

    Foolbox returns zeros there, which are adversarial wherever the model misclassifies black, but no find of the
    search.

    Args:
        model, images: as in `candidates`.
        criterion: labels, or one of Foolbox's criteria.
        options: of `foolbox.attacks.L2CarliniWagnerAttack`.
    """
    foolbox = require("foolbox", "lab")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
    points: Tensor
    _, points, _ = foolbox.attacks.L2CarliniWagnerAttack(**options)(wrapped, images, criterion, epsilons=None)
    found = points.flatten(1).any(dim=1)
    return torch.where(search.per_image(found, images), points, images)
