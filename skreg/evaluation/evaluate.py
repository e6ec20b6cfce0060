"""Everything that is said about one model: accuracy under attack, and what is needed to believe it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from skreg._checks import check_count
from skreg.attacks import FGSM, attack_mode
from skreg.evaluation.attacks import (
    ATTACKS,
    EPS_SLACK,
    FIXED_IN_FOOLBOX3,
    AttackResult,
    check_attack,
    check_inputs,
    finite_forward,
    minibatches,
    run_attack,
)
from skreg.evaluation.proportion import Proportion
from skreg.evaluation.robust import fixed_radius_pgd, robust_accuracy
from skreg.evaluation.search import loss_gradient
from skreg.evaluation.store import StoredResult, stored_attack
from skreg.regularizer import SmoothKernelRegularizer


@dataclass(frozen=True)
class AttackSummary:
    """One attack's searches for adversarial images.

    Attributes:
        attack: its name.
        accuracy: images classified rightly for which no adversarial was found within the bound: what the
            paper's Table 1 reports.
        searches: images attacked, which are those classified rightly.
        failed: searches that found no adversarial at any distance (for an attack with a fixed radius: within
            it). Each of them counts as right in `accuracy`.
        median_l2, median_linf: medians over the searches, a failed one counted as infinitely far; NaN where
            nothing was attacked.
    """

    attack: str
    accuracy: Proportion
    searches: int
    failed: int
    median_l2: float
    median_linf: float


@dataclass(frozen=True)
class LayerSummary:
    """The kernels of one conv weight.

    Attributes:
        name: of the weight.
        roughness: D/E (paper, section 3), which does not change with the scale of the weight.
        high_frequency_share: share of the energy above half the Nyquist frequency.
        norm: Euclidean.
    """

    name: str
    roughness: float
    high_frequency_share: float
    norm: float


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_model` measured.

    Attributes:
        name: of the model.
        data: name of the data set.
        preset, seed: of the attacks, see `run_attack`.
        eps: linf radius of `fgsm_at_eps` and `pgd_at_eps`.
        bound: largest linf norm of an adversarial that counts in `attacks`; None for any.
        clean: accuracy on the images themselves.
        attacks: a summary an attack.
        fgsm_at_eps: accuracy under FGSM at radius `eps`.
        pgd_at_eps: accuracy under PGD at radius `eps`: cross-entropy and margin loss, with restarts.
        pgd_at_one: the same at radius 1, where every image is within reach: 0 for an attack that works.
        zero_gradients: images whose cross-entropy gradient is exactly zero everywhere: no attack along that
            gradient can start there.
        logit_margin: mean distance between the two highest logits.
        layers: a summary a conv weight.
    """

    name: str
    data: str
    preset: str
    seed: int
    eps: float
    bound: float | None
    clean: Proportion
    attacks: tuple[AttackSummary, ...]
    fgsm_at_eps: Proportion
    pgd_at_eps: Proportion
    pgd_at_one: Proportion
    zero_gradients: Proportion
    logit_margin: float
    layers: tuple[LayerSummary, ...]


def evaluate_model(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    name: str = "model",
    data: str = "",
    attacks: Sequence[str] = ATTACKS,
    bound: float | None = None,
    preset: str = "paper",
    batch_size: int = 128,
    seed: int = 0,
    folder: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure accuracy, robustness and kernels of one model, which is left as it was found.

    Args:
        model: maps float images to logits (N K); has at least one convolution.
        images: N C H W, floating point in [0, 1], on the model's device; at least one.
        labels: N, int64 classes.
        eps: linf radius of the columns at a fixed radius, and of fgsm and pgd in preset "foolbox3".
        name, data: names for the result.
        attacks: names among `ATTACKS`.
        bound: largest linf norm of an adversarial that counts, None for any.
        preset, batch_size, seed: as in `run_attack`.
        folder: where the results of `attacks` are kept image by image, so that an interrupted evaluation goes on
            behind the last finished batch (see `stored_attack`); it is made. None to keep nothing.
        progress: is called with the name of each step before it begins.

    Raises:
        TypeError, ValueError, FloatingPointError: as `run_attack` does.
        RunError: as `stored_attack` does, where there is a folder.
    """
    for attack in attacks:
        check_attack(attack)
    check_inputs(model, images, labels)
    check_count("number of images", len(images))
    told = progress or (lambda step: None)

    told("clean")
    clean = robust_accuracy(model, images, labels, [], batch_size=batch_size)
    zero_gradients, logit_margin = _landscape(model, images, labels, batch_size)
    summaries = []
    for attack in attacks:
        told(attack)
        radius = eps if preset == "foolbox3" and attack in FIXED_IN_FOOLBOX3 else None
        if folder is None:
            result: AttackResult | StoredResult = run_attack(
                model, images, labels, attack, preset=preset, eps=radius, batch_size=batch_size, seed=seed
            )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{preset}-{attack}.safetensors"
            result = stored_attack(
                file, model, images, labels, attack, preset=preset, eps=radius, batch_size=batch_size, seed=seed
            )
        summaries.append(_summarise(attack, result, bound))

    def accuracy_at(radius: float) -> Proportion:
        attacks = fixed_radius_pgd(radius)
        return robust_accuracy(model, images, labels, attacks, batch_size=batch_size, seed=seed)

    told(f"eps {eps:g}")
    return Evaluation(
        name=name,
        data=data,
        preset=preset,
        seed=seed,
        eps=eps,
        bound=bound,
        clean=clean,
        attacks=tuple(summaries),
        fgsm_at_eps=robust_accuracy(model, images, labels, [FGSM(eps=eps)], batch_size=batch_size),
        pgd_at_eps=accuracy_at(eps),
        pgd_at_one=accuracy_at(1.0),
        zero_gradients=zero_gradients,
        logit_margin=logit_margin,
        layers=summarise_kernels(model),
    )


def summarise_kernels(model: nn.Module) -> tuple[LayerSummary, ...]:
    """Roughness, spectrum and norm of every conv weight with kernels larger than 1x1."""
    return tuple(
        LayerSummary(each.name, each.roughness, each.high_frequency_share, math.sqrt(each.energy))
        for each in SmoothKernelRegularizer(model).statistics()
    )


def _summarise(attack: str, result: AttackResult | StoredResult, bound: float | None) -> AttackSummary:
    attacked = ~(result.success & (result.linf == 0))  # distance 0 means misclassified from the start
    within = result.success if bound is None else result.success & (result.linf <= bound + EPS_SLACK)
    return AttackSummary(
        attack=attack,
        accuracy=Proportion(int((~within).sum()), len(within)),
        searches=int(attacked.sum()),
        failed=int((~result.success).sum()),
        median_l2=_median(result.l2[attacked]),
        median_linf=_median(result.linf[attacked]),
    )


def _median(values: Tensor) -> float:
    return float(values.quantile(0.5, interpolation="lower")) if len(values) else math.nan


def _landscape(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> tuple[Proportion, float]:
    """Share of images whose gradient is exactly zero, and the mean distance of the two highest logits."""
    zero, margins = 0, 0.0
    with attack_mode(model, "eval"), torch.enable_grad():
        forward = finite_forward(model)
        for x, y in minibatches(images, labels, batch_size):
            gradient, logits = loss_gradient(forward, x, y)
            zero += int((~gradient.flatten(1).any(dim=1)).sum())
            highest = logits.double().topk(2, dim=1).values
            margins += float((highest[:, 0] - highest[:, 1]).sum())
    return Proportion(zero, len(images)), margins / len(images)
