"""Accuracy under noise, blur, and attacks confined to a band of frequencies, for several runs side by side."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from skreg._checks import check_count, check_number
from skreg._extras import require
from skreg.attacks import attack_mode
from skreg.data import load
from skreg.evaluation.attacks import check_inputs, finite_forward, minibatches
from skreg.evaluation.frequency import BANDS, band_noise, band_pgd
from skreg.evaluation.proportion import Proportion
from skreg.evaluation.runs import run_names
from skreg.evaluation.search import misclassified
from skreg.training import load_run
from skreg.training.checkpoint import write_file

NOISE, ATTACK = (3.0, 6.0), (0.5, 1.0, 2.0)  # l2 norms of an image's perturbation
DEVIATIONS, BLURS = (0.1, 0.2), (1.0, 2.0)  # pixels in [0, 1]; pixels


@dataclass(frozen=True)
class BandResult:
    """Accuracy of one run under one perturbation.

    Attributes:
        kind: "clean", "noise" or "attack" in a band, "Gaussian noise" or "blur".
        band: "low", "middle" or "high" (`BANDS`), or "" for all frequencies.
        size: l2 norm for noise and attack in a band, standard deviation for Gaussian noise and blur.
    """

    run: str
    kind: str
    band: str
    size: float
    accuracy: Proportion


def measure_bands(
    paths: Sequence[str | os.PathLike[str]],
    *,
    limit: int | None = None,
    noise: Sequence[float] = NOISE,
    attack: Sequence[float] = ATTACK,
    batch_size: int = 256,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[BandResult]:
    """Measure the best weights of each run on its test set, under perturbations of each band and of all frequencies.

    An attack is `band_pgd` with 20 steps. All runs see the same images and the same noise.

    Args:
        paths: run folders, as `skreg.training.train` writes them.
        limit: number of test images; None for all.
        noise, attack: l2 norms of an image's perturbation, pixels in [0, 1].
        progress: is called with a line before each step.

    Raises:
        ValueError: no runs, or a norm that is not above 0.
        RunError: a path holds no readable run.
    """
    if not paths:
        raise ValueError("paths: expected at least one run folder, found none")
    sizes = {"noise": list(noise), "attack": list(attack)}
    for name, norms in sizes.items():
        for norm in norms:
            check_number(name, norm, positive=True)
    check_count("batch_size", batch_size)
    runs = [load_run(path) for path in paths]
    results = []
    for run, name in zip(runs, run_names(paths), strict=True):
        pixels, labels = load(run.config.data, "test", run.config.data_root, limit)
        images, model = pixels.float() / 255, run.load_model()
        for kind, band, size, perturbed in _perturb(model, images, labels, sizes, batch_size, seed):
            if progress is not None:
                progress(f"{name}: {kind} {band} {size:g}")
            results.append(BandResult(name, kind, band, size, _accuracy(model, perturbed, labels, batch_size)))
    return results


def _perturb(
    model: nn.Module, images: Tensor, labels: Tensor, sizes: dict[str, list[float]], batch_size: int, seed: int
) -> Iterator[tuple[str, str, float, Tensor]]:
    """Kind, band, size, and the perturbed images."""
    yield "clean", "", 0.0, images
    for deviation in DEVIATIONS:
        draw = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        yield "Gaussian noise", "", deviation, (images + deviation * draw).clamp(0, 1)
    blur = require("torchvision.transforms.functional", "lab").gaussian_blur
    for sigma in BLURS:
        yield "blur", "", sigma, blur(images, 2 * int(3 * sigma) + 1, sigma).clamp(0, 1)
    for band, (low, high) in BANDS.items():
        for norm in sizes["noise"]:
            yield "noise", band, norm, band_noise(images, low=low, high=high, norm=norm, seed=seed)
        for norm in sizes["attack"]:
            adversarial = band_pgd(
                model, images, labels, low=low, high=high, eps=norm, batch_size=batch_size, seed=seed
            )
            yield "attack", band, norm, adversarial


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Proportion:
    check_inputs(model, images, labels)
    with attack_mode(model, "eval"):
        forward = finite_forward(model)
        wrong = sum(int(misclassified(forward, *batch).sum()) for batch in minibatches(images, labels, batch_size))
    return Proportion(len(images) - wrong, len(images))


def write_bands(path: str | os.PathLike[str], results: Sequence[BandResult]) -> None:
    """Write a CSV file, a row a result with its 95% interval, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "kind", "band", "size", "images", "accuracy", "lower", "upper"])
    for each in results:
        numbers = (each.accuracy.value, *each.accuracy.interval)
        row = [each.run, each.kind, each.band, f"{each.size:g}", each.accuracy.total]
        writer.writerow([*row, *(f"{number:.4f}" for number in numbers)])
    write_file(Path(path), text.getvalue().encode())
