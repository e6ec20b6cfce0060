"""Attacks by name, with success and distances that are always recomputed here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skreg._checks import (
    check_choice,
    check_classes,
    check_count,
    check_images,
    check_labels,
    check_logits,
    check_model,
    check_number,
    check_range,
)
from skreg.attacks import attack_mode
from skreg.attacks.ascent import NO_GRADIENT
from skreg.attacks.deformation import Deformation
from skreg.evaluation import foolbox3, search
from skreg.evaluation.carlini_wagner import carlini_wagner
from skreg.evaluation.fixed_eps import ATTACKS_AT_EPS
from skreg.evaluation.salt_pepper import salt_pepper

ATTACKS = ("fgsm", "pgd", "deepfool_l2", "deepfool_linf", "cw", "adef", "salt_pepper")
PRESETS = ("paper", "foolbox3")
AT_EPS = "at_eps"  # the preset of the attacks within a fixed eps, which are other ones
FIXED_IN_FOOLBOX3 = ("fgsm", "pgd")  # these search for the smallest eps in preset "paper" only

EPS_SLACK = 1e-6  # float32 rounding of image + eps, which is no reason to reject an adversarial

_PAPER: dict[str, Callable[[search.Forward, Tensor, Tensor], Tensor]] = {
    "fgsm": search.fgsm,
    "pgd": search.pgd,
    "deepfool_l2": functools.partial(search.deepfool, norm=2),
    "deepfool_linf": functools.partial(search.deepfool, norm=torch.inf),
    "cw": carlini_wagner,
    # Without overshoot, as in Foolbox 2: an image that ends on the boundary itself counts as a failed search.
    "adef": lambda forward, images, labels: Deformation(overshoot=1.0).run(forward, images, labels)[0],
    "salt_pepper": salt_pepper,
}


@dataclass(frozen=True)
class AttackResult:
    """What an attack did to N images.

    Attributes:
        adversarial: N C H W. Where the attack failed, the image itself.
        success: N, bool: the model misclassifies `adversarial`, as its logits on the images returned say. An
            image that was misclassified from the start is a success at distance 0.
        l0: N, float64, the number of changed values, channels counted apart; inf where the attack failed.
        l2: N, float64, the Euclidean norm of the perturbation; inf where the attack failed.
        linf: N, float64, the largest change of a value; inf where the attack failed.
    """

    adversarial: Tensor
    success: Tensor
    l0: Tensor
    l2: Tensor
    linf: Tensor


def run_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: str,
    *,
    preset: str = "paper",
    eps: float | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> AttackResult:
    """Attack each image and report which adversarial images were found and how far away they are.

    Preset "paper" searches for the smallest perturbation as Foolbox did when the paper was written (defaults
    of Foolbox 1.8 and 2.x, see `skreg.evaluation.search`). Preset "foolbox3" is Foolbox 3.3 at its defaults,
    where fgsm and pgd have a fixed eps; it has no adef, so that one is `skreg.attacks.ADef` at its defaults.
    Preset "at_eps" holds attacks of its own, which look for any adversarial within `eps`: "fgsm", "pgd_ce" and
    "pgd_margin" (40 steps, a second run on the survivors), "random_search", a black box, and "autoattack".

    The model is attacked in eval mode with its parameters frozen, and left as it was found. Images that it
    misclassifies anyway are not attacked. A search that ends without an adversarial is a failure, whatever it
    returned.

    Args:
        model: maps float images to logits (N K).
        images: N C H W, floating point in [0, 1], on the model's device.
        labels: N, int64 classes.
        attack: one of `ATTACKS`; in preset "at_eps" one of `ATTACKS_AT_EPS`.
        preset: one of `PRESETS`, or "at_eps".
        eps: largest linf norm that counts as a success; None for no bound. The searches are the same with and
            without. For fgsm and pgd of "foolbox3", and all of "at_eps", it is the attack's radius, and required.
        batch_size: images attacked at once.
        seed: of salt_pepper, of the random start of pgd in "foolbox3", and of "at_eps"; nothing else is random.

    Raises:
        TypeError, ValueError: for an unknown attack or preset, a bad eps or batch size, images, labels or logits
            that are not as above, images of less than 32 bits, and logits without a gradient.
        FloatingPointError: where the model's logits are not finite.
        ModuleNotFoundError: what the attack needs is not installed; names the extra.
    """
    check_inputs(model, images, labels)
    check_precision(images)
    _check_options(attack, preset, eps, batch_size)
    devices = [images.device] if images.is_cuda else []
    with attack_mode(model, "eval"), torch.enable_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        forward = finite_forward(model)
        if len(images):
            with torch.no_grad():
                logits = check_logits(model(images[:1]), images[:1])
            check_classes(labels, logits.shape[1])
        results = [
            _attack_batch(forward, x, y, attack, preset, eps) for x, y in minibatches(images, labels, batch_size)
        ]
    adversarial, success = (torch.cat(parts) for parts in zip(*results, strict=True))
    return _measure(images, adversarial, success)


def _attack_batch(
    forward: nn.Module, images: Tensor, labels: Tensor, attack: str, preset: str, eps: float | None
) -> tuple[Tensor, Tensor]:
    """The adversarial images of one batch (the clean ones where the attack failed), and its successes."""
    adversarial = images.detach().clone()
    success = search.misclassified(forward, images, labels)
    attacked = (~success).nonzero()[:, 0]
    if len(attacked):
        clean, classes = adversarial[attacked], labels[attacked]
        if preset == "paper":
            points = _PAPER[attack](forward, clean, classes)
        elif preset == AT_EPS:
            assert eps is not None
            points = ATTACKS_AT_EPS[attack](forward, clean, classes, eps)
        else:
            points = foolbox3.candidates(
                forward, clean, classes, attack, eps=eps if attack in FIXED_IN_FOOLBOX3 else None
            )
        points = points.detach().clamp(0, 1)
        found = search.misclassified(forward, points, classes)
        if eps is not None:
            found &= (points - clean).abs().flatten(1).amax(dim=1) <= eps + EPS_SLACK
        adversarial[attacked[found]] = points[found]
        success[attacked[found]] = True
    return adversarial, success


def _measure(images: Tensor, adversarial: Tensor, success: Tensor) -> AttackResult:
    """Distances, inf where the attack failed; in float64, so that they add no rounding of their own."""
    change = (adversarial.double() - images.double()).flatten(1)
    failed = ~success

    def norm(order: float) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(change, order, dim=1)
        return norms.masked_fill(failed, torch.inf)

    return AttackResult(adversarial, success, l0=norm(0), l2=norm(2), linf=norm(torch.inf))


def minibatches(images: Tensor, labels: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The images and labels in order, `batch_size` at a time; one empty batch where there are none."""
    for start in range(0, max(len(images), 1), batch_size):
        yield images[start : start + batch_size], labels[start : start + batch_size]


class _FiniteForward(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        logits = check_logits(self.model(images), images)
        if images.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            raise ValueError(NO_GRADIENT)
        finite = logits.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            raise FloatingPointError(
                f"the model's logits are NaN or infinite for {int((~finite).sum())} of {len(images)} images; "
                "nothing can be said about its robustness. Look for an overflow in its weights."
            )
        return logits


def finite_forward(model: nn.Module) -> nn.Module:
    """`model`, which now raises FloatingPointError where its logits are not finite, ValueError without a gradient.

    NaN compares false with everything, so that it would pass for a misclassification.
    """
    return _FiniteForward(model)


def check_inputs(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Check that images are N C H W floats in [0, 1] and labels N int64 classes, all on the model's device.

    Raises:
        TypeError, ValueError: naming what is off and how to put it right.
    """
    check_model(model)
    check_images(images)
    check_labels(labels, images)
    parameter = next(model.parameters(), images)
    if parameter.device != images.device:
        raise ValueError(f"images are on {images.device} but the model is on {parameter.device}; move them together")
    check_range(images, (0.0, 1.0))


def check_precision(images: Tensor) -> None:
    """Check that distances between such images are finer than `EPS_SLACK`.

    Raises:
        TypeError: they are not; says how to attack a model in half precision.
    """
    if torch.finfo(images.dtype).bits < 32:
        raise TypeError(
            f"images must be float32 or float64 where distances are measured, found {images.dtype}, which rounds an "
            "adversarial image out of its eps; pass images.float(), and a model that casts them itself"
        )


def check_attack(attack: str, preset: str = "paper") -> None:
    """Check that `attack` is one of `preset`.

    Raises:
        ValueError: listing those there are.
    """
    check_choice("attack", attack, tuple(ATTACKS_AT_EPS) if preset == AT_EPS else ATTACKS)


def _check_options(attack: str, preset: str, eps: float | None, batch_size: int) -> None:
    check_choice("preset", preset, (*PRESETS, AT_EPS))
    check_attack(attack, preset)
    check_count("batch_size", batch_size)
    if eps is not None and not 0 < check_number("eps", eps) <= 1:
        raise ValueError(f"eps must lie in (0, 1], the range of the images, found {eps}")
    if preset == "foolbox3" and attack in FIXED_IN_FOOLBOX3 and eps is None:
        raise ValueError(f'preset "foolbox3" runs {attack} at a fixed radius: pass eps, or use preset "paper"')
    if preset == AT_EPS and eps is None:
        raise ValueError(f'preset "{AT_EPS}" attacks within a fixed radius: pass eps')
