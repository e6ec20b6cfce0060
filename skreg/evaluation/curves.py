"""Accuracy as a function of the bound on the perturbation: the numbers behind the paper's Figures 7 to 9."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from skreg._checks import check_choice
from skreg.evaluation.attacks import ATTACKS, FIXED_IN_FOOLBOX3, PRESETS
from skreg.evaluation.proportion import Proportion
from skreg.evaluation.runs import RESULTS_FOLDER
from skreg.evaluation.store import StoredResult, hash_weights, read_stored
from skreg.training import Run, RunError

NORMS = ("l0", "l2", "linf")


@dataclass(frozen=True)
class Curve:
    """Accuracy of one model under one attack against the bound eps on one norm of the perturbation.

    It comes from the distances of the closest adversarials that the attack found, not from clipping them to
    each eps: a clipped perturbation is another one, and for l0 there is no clipping.

    Attributes:
        distances: N, float64, sorted: how far each image is from its adversarial. 0 for an image that is
            misclassified from the start, an error at every eps; inf where the search failed, so that the image
            counts as right at every eps.
    """

    distances: Tensor

    @property
    def total(self) -> int:
        """Number of images."""
        return len(self.distances)

    @property
    def searches(self) -> int:
        """Images attacked: those classified rightly."""
        return int((self.distances > 0).sum())

    @property
    def failed(self) -> int:
        """Searches that found no adversarial at any distance."""
        return int(self.distances.isinf().sum())

    def at(self, eps: float) -> Proportion:
        """Images classified rightly whose adversarial, if any, is farther away than `eps`."""
        return Proportion(int((self.distances > eps).sum()), self.total)

    def steps(self) -> tuple[list[float], list[Proportion]]:
        """The whole function: the values of eps where it falls, 0 in front, and the accuracy from each on."""
        finite = self.distances[self.distances.isfinite()]
        bounds = torch.tensor(sorted({0.0, *finite.tolist()}), dtype=self.distances.dtype)
        farther = self.total - torch.searchsorted(self.distances, bounds, right=True)
        return bounds.tolist(), [Proportion(count, self.total) for count in farther.tolist()]


@dataclass(frozen=True)
class RunResults:
    """What the attacks found of one run's best weights.

    Attributes:
        images: by attack, a number for each image with its label (N, int64).
        results: by attack, in the order of `ATTACKS`.
    """

    images: Mapping[str, Tensor]
    results: Mapping[str, StoredResult]

    def curve(self, attack: str, norm: str, count: int | None = None) -> Curve:
        """The curve of the first `count` images, None for all.

        Raises:
            ValueError: no such norm.
            KeyError: the attack was not run.
        """
        check_choice("norm", norm, NORMS)
        distances: Tensor = getattr(self.results[attack], norm)[:count]
        return Curve(distances.sort().values)


def has_results(run: Run, preset: str = "paper") -> bool:
    """Whether `run` has files that `read_results` reads, good or not."""
    return bool(_files(run, preset))


def read_results(run: Run, *, preset: str = "paper") -> RunResults:
    """Read the distances that `skreg evaluate` keeps image by image in RUN/evaluation/.

    FGSM and PGD of preset "foolbox3" are left out: they search no smallest distance.

    Raises:
        ValueError: no such preset.
        RunError: there are no results, they are damaged, or they are of other weights than the run's best.
    """
    check_choice("preset", preset, PRESETS)
    files = _files(run, preset)
    if not files:
        raise RunError(
            f"{run.path} has no distances of adversarials (preset {preset}); run `skreg evaluate {run.path}`"
        )
    weights = hash_weights(run.load_model("best"))
    images, results = {}, {}
    for attack, file in files.items():
        facts, images[attack], results[attack] = read_stored(file)
        _check_weights(run, file, facts.get("weights"), weights)
    return RunResults(images, results)


def _files(run: Run, preset: str) -> dict[str, Path]:
    """The files there are of attacks that search for the smallest distance, by attack."""
    left_out = FIXED_IN_FOOLBOX3 if preset == "foolbox3" else ()
    files = {attack: run.path / RESULTS_FOLDER / f"{preset}-{attack}.safetensors" for attack in ATTACKS}
    return {attack: file for attack, file in files.items() if attack not in left_out and file.exists()}


def _check_weights(run: Run, file: Path, found: str | None, expected: str) -> None:
    if found != expected:
        raise RunError(
            f"{file} holds results of other weights than {run.path}'s best ones (expected {expected}, found {found}): "
            f"the run was trained on since. Move {file.parent} away, and run `skreg evaluate {run.path}` again"
        )
