"""The benchmark of attacks: the searches of `skreg.evaluation` beside plain calls of Foolbox 3 on the same images.

Foolbox 3 has no search for the smallest eps of FGSM and PGD, so the rival is the loop that its user writes.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skreg._checks import check_choice, check_count, check_number
from skreg._extras import require
from skreg.benchmark.timing import time_interleaved
from skreg.data import load
from skreg.evaluation import run_attack
from skreg.evaluation.search import (
    FGSM_STEPS,
    PGD_EPS,
    PGD_GROWTH,
    PGD_ITERATIONS,
    PGD_SEARCH,
    PGD_STEP_RATIO,
    misclassified,
)
from skreg.training import TrainConfig, train

FOOLBOX = "Foolbox 3"
# Attack: how many images. An evaluation attacks up to 128 at once, but Foolbox's FGSM and PGD take seconds an image.
IMAGES = {"deepfool_l2": 16, "deepfool_linf": 16, "fgsm": 4, "pgd": 16}
# Contender: preset of skreg; how far a distance may be from Foolbox's, absolute and as a share of it; for how many of
# the images at least.
CONTENDERS: dict[str, dict[str, tuple[str, float, float, float]]] = {
    # The constants of "paper" are others than Foolbox 3's (5% overshoot of a step, not 2% of the sum; 100 steps, not
    # 50), so that some images end behind another boundary.
    "deepfool_l2": {"ours, foolbox3": ("foolbox3", 1e-4, 0, 1.0), "ours, paper": ("paper", 2e-4, 0.1, 0.5)},
    "deepfool_linf": {"ours, foolbox3": ("foolbox3", 1e-4, 0, 1.0), "ours, paper": ("paper", 2e-4, 0.1, 0.5)},
    # Both search the same grid of 1000 values; ours then refines the hits among the first 20.
    "fgsm": {"ours, paper": ("paper", 1e-3, 0, 0.9)},
    # Both bisect alike, but Foolbox looks at the last of 40 iterates alone, ours at each.
    "pgd": {"ours, paper": ("paper", 2e-3, 0, 0.9)},
}

_Distances = Callable[[], Tensor]  # (N,), inf where the search failed


@dataclass(frozen=True)
class AttackMeasurement:
    """One contender on one attack.

    Attributes:
        agreement: share of the images with Foolbox's success and its distance, to the contender's tolerance.
        success: share of the images for which an adversarial was found.
        median_distance: in the attack's own norm; a failed search counts as infinitely far.
        lower_ms, median_ms, upper_ms: median and quartiles of the time an image.
        faster: Foolbox's median divided by this one.
    """

    data: str
    attack: str
    contender: str
    images: int
    threads: int
    samples: int
    agreement: float
    success: float
    median_distance: float
    lower_ms: float
    median_ms: float
    upper_ms: float
    faster: float


def run_attacks(
    attacks: Sequence[str] = tuple(IMAGES),
    *,
    threads: int,
    data: str = "fashion-mnist",
    images: int | None = None,
    training_images: int = 2000,
    rounds: int = 5,
    seconds: float = 60.0,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[AttackMeasurement]:
    """Measure attacks on a 2-conv net, trained here for two epochs, in turn with plain calls of Foolbox 3.

    Foolbox gets the model as a user has it: in eval mode, with parameters that require gradients.

    Args:
        attacks: names in `IMAGES`.
        images: test images, all classified rightly, for every attack; None takes those of `IMAGES`.
        training_images: the net is trained on.

    Raises:
        AssertionError: too many images have another success or distance than Foolbox's.
        ValueError, TypeError: an option is not as described.
        DatasetNotFoundError: the files of `data` are missing.
    """
    for attack in attacks:
        check_choice("attack", attack, tuple(IMAGES))
    for name, value in (("rounds", rounds), ("training_images", training_images), ("threads", threads)):
        check_count(name, value)
    if images is not None:
        check_count("images", images)
    check_number("seconds", seconds, positive=True)
    told = progress or (lambda step: None)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        told(f"attacks: training a net on {data}")
        model = _trained(data, training_images, seed)
        measurements = []
        for attack in attacks:
            told(f"attacks: {attack}, {threads} threads")
            x, labels = _rightly_classified(model, data, IMAGES[attack] if images is None else images)
            measurements += _measure(model, x, labels, data, attack, threads, rounds, seconds, seed)
        return measurements
    finally:
        torch.set_num_threads(before)


def _trained(data: str, training_images: int, seed: int) -> nn.Module:
    config = TrainConfig(
        data=data,
        variant="V",
        net="two_conv",
        limit=training_images,
        epochs=2,
        batch_size=64,
        validation_attack_images=1,
        validation_attack_steps=1,
        seed=seed,
        device="cpu",
    )
    with tempfile.TemporaryDirectory() as folder:
        return train(config, f"{folder}/run").load_model()


def _rightly_classified(model: nn.Module, data: str, count: int) -> tuple[Tensor, Tensor]:
    pixels, labels = load(data, "test", limit=2 * count + 60)
    images = pixels.float() / 255
    right = (~misclassified(model, images, labels)).nonzero()[:count, 0]
    if len(right) < count:
        raise ValueError(f"images: expected {count} that the net classifies rightly, found {len(right)}; take fewer")
    return images[right], labels[right]


def _measure(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    data: str,
    attack: str,
    threads: int,
    rounds: int,
    seconds: float,
    seed: int,
) -> list[AttackMeasurement]:
    calls: dict[str, _Distances] = {FOOLBOX: foolbox_search(model, images, labels, attack)}
    for name, (preset, *_) in CONTENDERS[attack].items():
        calls[name] = _our_search(model, images, labels, attack, preset)
    distances = {name: call() for name, call in calls.items()}
    agreement = {FOOLBOX: 1.0}
    for name, (_, absolute, relative, least) in CONTENDERS[attack].items():
        agreement[name] = _agreement(distances[FOOLBOX], distances[name], absolute, relative)
        if agreement[name] < least:
            raise AssertionError(
                f"{attack}, {name}: expected Foolbox's success and distance for {least:.0%} of the images, "
                f"found {agreement[name]:.0%}"
            )
    times = time_interleaved(calls, rounds=rounds, seconds=seconds, ready=True, seed=seed)
    rows = []
    for name, taken in times.items():
        lower, median, upper = statistics.quantiles(
            [1e3 * each / len(images) for each in taken], n=4, method="inclusive"
        )
        rows.append(
            AttackMeasurement(
                data=data,
                attack=attack,
                contender=name,
                images=len(images),
                threads=threads,
                samples=len(taken),
                agreement=round(agreement[name], 4),
                success=round(float(distances[name].isfinite().double().mean()), 4),
                median_distance=float(f"{float(distances[name].quantile(0.5, interpolation='lower')):.5g}"),
                lower_ms=round(lower, 2),
                median_ms=round(median, 2),
                upper_ms=round(upper, 2),
                faster=round(statistics.median(times[FOOLBOX]) / statistics.median(taken), 2),
            )
        )
    return rows


def _agreement(expected: Tensor, found: Tensor, absolute: float, relative: float) -> float:
    both_failed = expected.isinf() & found.isinf()
    near = (found - expected).abs() <= absolute + 1e-6 + relative * expected  # NaN or inf where one failed
    return float((both_failed | (near & expected.isfinite())).double().mean())


def _our_search(model: nn.Module, images: Tensor, labels: Tensor, attack: str, preset: str) -> _Distances:
    norm = "l2" if attack == "deepfool_l2" else "linf"
    return lambda: getattr(run_attack(model, images, labels, attack, preset=preset), norm)


def foolbox_search(model: nn.Module, images: Tensor, labels: Tensor, attack: str) -> _Distances:
    """The search for the smallest adversarial of `attack` that a user of Foolbox 3 writes: distances (N)."""
    foolbox = require("foolbox", "lab")
    wrapped = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device=images.device)
    if attack == "fgsm":
        return lambda: _grid(foolbox.attacks.LinfFastGradientAttack(), wrapped, images, labels)
    if attack == "pgd":
        pgd = foolbox.attacks.LinfProjectedGradientDescentAttack(
            rel_stepsize=PGD_STEP_RATIO, steps=PGD_ITERATIONS, random_start=False
        )
        return lambda: torch.tensor(
            [_bisect(pgd, wrapped, images[i : i + 1], labels[i : i + 1]) for i in range(len(images))]
        )
    name, norm = ("L2DeepFoolAttack", 2) if attack == "deepfool_l2" else ("LinfDeepFoolAttack", torch.inf)

    def deepfool() -> Tensor:
        _, points, success = getattr(foolbox.attacks, name)()(wrapped, images, labels, epsilons=None)
        distances: Tensor = torch.linalg.vector_norm((points - images).double().flatten(1), norm, dim=1)
        return distances.masked_fill(~success, torch.inf)

    return deepfool


def _grid(attack: Any, model: Any, images: Tensor, labels: Tensor) -> Tensor:
    """One call with all values of eps; the first success counts."""
    epsilons = [step / FGSM_STEPS for step in range(1, FGSM_STEPS + 1)]
    _, _, success = attack(model, images, labels, epsilons=epsilons)
    first: Tensor = torch.tensor(epsilons, dtype=torch.float64)[success.int().argmax(dim=0)]
    return first.masked_fill(~success.any(dim=0), torch.inf)


def _bisect(attack: Any, model: Any, image: Tensor, label: Tensor) -> float:
    """Grow eps, then bisect it, for one image: a call of Foolbox has one eps for all of its images."""
    smallest = torch.inf

    def attempt(eps: float) -> bool:
        nonlocal smallest
        _, clipped, success = attack(model, image, label, epsilons=eps)
        if success.item():
            smallest = min(smallest, float((clipped - image).abs().max()))
        return bool(success)

    eps = PGD_EPS
    for _ in range(PGD_SEARCH):
        if attempt(eps):
            break
        eps *= PGD_GROWTH
    else:
        return torch.inf
    low, high = 0.0, eps
    for _ in range(PGD_SEARCH):
        middle = (low + high) / 2
        low, high = (low, middle) if attempt(middle) else (middle, high)
    return smallest
