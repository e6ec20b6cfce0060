"""Everything that is said about one model: accuracy under attack, and what is needed to believe it."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from skreg._checks import check_classes, check_count, check_number
from skreg.attacks import attack_mode
from skreg.evaluation.attacks import (
    ATTACKS,
    EPS_SLACK,
    FIXED_IN_FOOLBOX3,
    AttackResult,
    check_inputs,
    check_precision,
    finite_forward,
    minibatches,
    run_attack,
)
from skreg.evaluation.landscape import measure_landscape
from skreg.evaluation.lock import locked
from skreg.evaluation.planned import (
    AUTOATTACK,
    PlannedAttack,
    check_attacks,
    find_conflicts,
    plan_attacks,
    refuse_conflicts,
)
from skreg.evaluation.progress import Plan, Step
from skreg.evaluation.proportion import Proportion
from skreg.evaluation.search import misclassified
from skreg.evaluation.store import StoredResult, stored_attack
from skreg.regularizer import SmoothKernelRegularizer

# What each search makes small. Foolbox's salt and pepper compares its repetitions in l2; ADef bounds no pixel.
MINIMISES = {
    "fgsm": "linf",
    "pgd": "linf",
    "deepfool_l2": "l2",
    "deepfool_linf": "linf",
    "cw": "l2",
    "adef": "field",
    "salt_pepper": "l2",
}

Result = AttackResult | StoredResult


@dataclass(frozen=True)
class AttackSummary:
    """One attack's searches for adversarial images.

    Attributes:
        attack: its name.
        minimises: "l2" or "linf", the norm of the perturbation that it makes small, or "field", that of ADef.
        accuracy: images classified rightly for which no adversarial was found within the bound: what the
            paper's Table 1 reports.
        searches: images attacked, which are those classified rightly.
        failed: searches that found no adversarial at any distance (for an attack with a fixed radius: within
            it). Each of them counts as right in `accuracy`.
        median_l0, median_l2, median_linf: medians over the searches, a failed one counted as infinitely far; NaN
            where nothing was attacked.
    """

    attack: str
    minimises: str
    accuracy: Proportion
    searches: int
    failed: int
    median_l0: float
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
    """What `evaluate_model` measured. docs/evaluation.md describes it as JSON.

    Attributes:
        name: of the model.
        data: name of the data set.
        classes: number of logits.
        preset, seed: of the attacks, see `run_attack`.
        eps: linf radius of everything "at_eps".
        bound: largest linf norm of an adversarial that counts in `attacks`; None for any.
        clean: accuracy on the images themselves.
        attacks: a summary an attack.
        fgsm_at_eps: accuracy under FGSM at radius `eps`.
        pgd_ce_at_eps, pgd_margin_at_eps: under PGD with cross-entropy, and with the margin loss; both with restarts.
        pgd_at_eps: under both: images that neither fools.
        random_search_at_eps: under a black-box search, which sees logits only.
        autoattack_at_eps: under AutoAttack; None where it was not asked for.
        worst_case_at_eps: images that nothing fooled within `eps`, the searches of `attacks` included.
        random_search_alone: images that the black-box search fools and neither FGSM nor PGD does: none, if
            gradients show the way.
        pgd_at_one: accuracy under both PGD at radius 1, where every image is within reach: 0 for a working attack.
        zero_gradients: images whose cross-entropy gradient is exactly zero everywhere: no attack along that
            gradient can start there.
        logit_margin: mean distance between the two highest logits.
        logit_scale: mean over images of the standard deviation of the logits.
        layers: a summary a conv weight.
        variant: what the model was trained as, such as "VR"; empty where that is unknown.
    """

    name: str
    data: str
    classes: int
    preset: str
    seed: int
    eps: float
    bound: float | None
    clean: Proportion
    attacks: tuple[AttackSummary, ...]
    fgsm_at_eps: Proportion
    pgd_ce_at_eps: Proportion
    pgd_margin_at_eps: Proportion
    pgd_at_eps: Proportion
    random_search_at_eps: Proportion
    autoattack_at_eps: Proportion | None
    worst_case_at_eps: Proportion
    random_search_alone: Proportion
    pgd_at_one: Proportion
    zero_gradients: Proportion
    logit_margin: float
    logit_scale: float
    layers: tuple[LayerSummary, ...]
    variant: str = ""

    def is_fixed(self, attack: str) -> bool:
        """Whether `attack` ran at `eps` alone, where others search for the smallest perturbation."""
        return self.preset == "foolbox3" and attack in FIXED_IN_FOOLBOX3


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
    progress: Callable[[Step], None] | None = None,
) -> Evaluation:
    """Measure accuracy, robustness and kernels of one model, which is left as it was found.

    Args:
        model: maps float images to logits (N K); has at least one convolution.
        images: N C H W, floating point in [0, 1], on the model's device; at least one.
        labels: N, int64 classes.
        eps: linf radius of the columns at a fixed radius, and of fgsm and pgd in preset "foolbox3"; in (0, 1].
        name, data: names for the result.
        attacks: names among `CHOICES`, the searches `ATTACKS` and "autoattack".
        bound: largest linf norm of an adversarial that counts, None for any.
        preset, batch_size, seed: as in `run_attack`.
        folder: where the results of all attacks are kept image by image, so that an interrupted evaluation goes on
            behind the last finished batch (see `stored_attack`); it is made, and other processes are kept out of it.
            None to keep nothing.
        progress: is called as each attack begins and, where there is a folder, after each batch.

    Raises:
        TypeError, ValueError, FloatingPointError: as `run_attack` does.
        ModuleNotFoundError: "autoattack" without its package; before any work.
        RunError: as `stored_attack` does, where there is a folder; for results of something else before any attack. Or
            another process evaluates in the folder.
    """
    check_attacks(attacks, preset)
    check_inputs(model, images, labels)
    check_precision(images)
    check_count("number of images", len(images))
    if not 0 < check_number("eps", eps) <= 1:
        raise ValueError(f"eps must lie in (0, 1], the range of the images, found {eps}")
    plan = plan_attacks(attacks, preset, eps)
    steps = Plan(name, len(images), [each.attack for each in plan.all], progress)

    def attacked(each: PlannedAttack) -> Result:
        told = steps.begin(each.attack, "" if each.eps is None else f" at eps {each.eps:g}")
        run: Callable[..., Result] = run_attack
        if folder is not None:
            run = functools.partial(stored_attack, folder / each.file_name, progress=told)
        options = {"preset": each.preset, "eps": each.eps, "batch_size": batch_size, "seed": seed}
        return run(model, images, labels, each.attack, **options)

    with contextlib.nullcontext() if folder is None else locked(folder):
        if folder is not None:
            refuse_conflicts(find_conflicts(folder, plan, model, images, labels, seed))
        right, classes = _classified(model, images, labels, batch_size)
        landscape = measure_landscape(model, images, labels, batch_size)
        found = {each.attack: attacked(each) for each in plan.searches}
        fooled = {each.attack: attacked(each).success.cpu() for each in plan.at_eps}
        at_one = torch.zeros_like(right)
        for each in plan.at_one:
            if not at_one.all():
                at_one |= attacked(each).success.cpu()

    gradients = fooled["fgsm"] | fooled["pgd_ce"] | fooled["pgd_margin"]
    within = [(result.success & (result.linf <= eps + EPS_SLACK)).cpu() for result in found.values()]
    anything = torch.stack([*fooled.values(), *within]).any(dim=0)
    return Evaluation(
        name=name,
        data=data,
        classes=classes,
        preset=preset,
        seed=seed,
        eps=eps,
        bound=bound,
        clean=_share(right),
        attacks=tuple(_summarise(attack, result, right, bound) for attack, result in found.items()),
        fgsm_at_eps=_share(~fooled["fgsm"]),
        pgd_ce_at_eps=_share(~fooled["pgd_ce"]),
        pgd_margin_at_eps=_share(~fooled["pgd_margin"]),
        pgd_at_eps=_share(~(fooled["pgd_ce"] | fooled["pgd_margin"])),
        random_search_at_eps=_share(~fooled["random_search"]),
        autoattack_at_eps=_share(~fooled[AUTOATTACK]) if AUTOATTACK in fooled else None,
        worst_case_at_eps=_share(~anything),
        random_search_alone=_share(fooled["random_search"] & ~gradients),
        pgd_at_one=_share(~at_one),
        zero_gradients=landscape.zero_gradients,
        logit_margin=landscape.logit_margin,
        logit_scale=landscape.logit_scale,
        layers=summarise_kernels(model),
    )


def summarise_kernels(model: nn.Module) -> tuple[LayerSummary, ...]:
    """Roughness, spectrum and norm of every conv weight with kernels larger than 1x1."""
    return tuple(
        LayerSummary(each.name, each.roughness, each.high_frequency_share, math.sqrt(each.energy))
        for each in SmoothKernelRegularizer(model).statistics()
    )


def _summarise(attack: str, result: Result, right: Tensor, bound: float | None) -> AttackSummary:
    success, linf = result.success.cpu(), result.linf.cpu()
    within = success if bound is None else success & (linf <= bound + EPS_SLACK)
    return AttackSummary(
        attack=attack,
        minimises=MINIMISES[attack],
        accuracy=_share(~within),
        searches=int(right.sum()),
        failed=int((~success).sum()),
        median_l0=_median(result.l0.cpu()[right]),
        median_l2=_median(result.l2.cpu()[right]),
        median_linf=_median(linf[right]),
    )


def _median(values: Tensor) -> float:
    return float(values.quantile(0.5, interpolation="lower")) if len(values) else math.nan


def _share(chosen: Tensor) -> Proportion:
    return Proportion(int(chosen.sum()), len(chosen))


def _classified(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> tuple[Tensor, int]:
    """Whether each image is classified rightly (N, bool, on the CPU), and the number of classes."""
    with attack_mode(model, "eval"), torch.no_grad():
        forward = finite_forward(model)
        wrong = [misclassified(forward, x, y).cpu() for x, y in minibatches(images, labels, batch_size)]
        classes = forward(images[:1]).shape[1]
        check_classes(labels, classes)
    return ~torch.cat(wrong), classes
