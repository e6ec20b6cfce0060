"""Which attacks an evaluation consists of, and whether the results that a folder has of them can be gone on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from skreg._checks import check_choice
from skreg._extras import require
from skreg.evaluation.attacks import AT_EPS, ATTACKS, FIXED_IN_FOOLBOX3, PRESETS
from skreg.evaluation.foolbox3 import DEEPFOOL_NORMS
from skreg.evaluation.store import describe, hash_images, hash_weights, read_matching
from skreg.training.checkpoint import RunError

AUTOATTACK = "autoattack"
CHOICES = (*ATTACKS, AUTOATTACK)  # what `evaluate_model` can be asked for; the other columns are always there


@dataclass(frozen=True)
class PlannedAttack:
    """One attack of an evaluation, with the preset and eps that `run_attack` gets."""

    attack: str
    preset: str
    eps: float | None

    @property
    def file_name(self) -> str:
        """Of its results, in the folder that an evaluation is kept in."""
        prefix = self.preset if self.preset != AT_EPS else f"eps{self.eps:g}"
        return f"{prefix}-{self.attack}.safetensors"


@dataclass(frozen=True)
class AttackPlan:
    """The attacks of an evaluation: searches, those within the training eps, and PGD where all is within reach."""

    searches: tuple[PlannedAttack, ...]
    at_eps: tuple[PlannedAttack, ...]
    at_one: tuple[PlannedAttack, ...]

    @property
    def all(self) -> tuple[PlannedAttack, ...]:
        """In the order in which they run; the last one only if it is needed."""
        return self.searches + self.at_eps + self.at_one


def check_attacks(attacks: Sequence[str], preset: str) -> None:
    """Check what `evaluate_model` is asked for.

    Raises:
        ValueError: an unknown attack or preset; lists those there are.
        ModuleNotFoundError: an attack's package is missing; names the extra.
    """
    for attack in attacks:
        check_choice("attack", attack, CHOICES)
    check_choice("preset", preset, PRESETS)
    if AUTOATTACK in attacks:
        require("pyautoattack", "autoattack")
    if preset == "foolbox3" and set(attacks) - {AUTOATTACK, *DEEPFOOL_NORMS}:
        require("foolbox", "lab")


def plan_attacks(attacks: Sequence[str], preset: str, eps: float) -> AttackPlan:
    """All attacks of an evaluation that is asked for `attacks`."""
    extra = [AUTOATTACK] if AUTOATTACK in attacks else []
    return AttackPlan(
        searches=tuple(
            PlannedAttack(attack, preset, eps if preset == "foolbox3" and attack in FIXED_IN_FOOLBOX3 else None)
            for attack in ATTACKS
            if attack in attacks
        ),
        at_eps=tuple(
            PlannedAttack(attack, AT_EPS, eps) for attack in ("fgsm", "pgd_ce", "pgd_margin", "random_search", *extra)
        ),
        at_one=tuple(PlannedAttack(attack, AT_EPS, 1.0) for attack in ("pgd_ce", "pgd_margin")),
    )


def find_conflicts(
    folder: Path, plan: AttackPlan, model: nn.Module, images: Tensor, labels: Tensor, seed: int
) -> dict[Path, RunError]:
    """The files in `folder` that `plan` cannot go on with, each with what `stored_attack` would raise."""
    planned = {folder / each.file_name: each for each in plan.all}
    there = [file for file in planned if file.exists()]
    if not there:
        return {}
    weights, keys = hash_weights(model), hash_images(images, labels)
    conflicts = {}
    for file in there:
        each = planned[file]
        try:
            read_matching(file, describe(weights, each.attack, each.preset, each.eps, seed), keys)
        except RunError as error:
            conflicts[file] = error
    return conflicts


def refuse_conflicts(conflicts: Mapping[Path, RunError]) -> None:
    """Raise one error for all `conflicts`, if there are any.

    Raises:
        RunError: says what is wrong with the first file, and which folders hold the others.
    """
    if not conflicts:
        return
    first, *others = conflicts.values()
    if not others:
        raise first
    folders = ", ".join(dict.fromkeys(str(file.parent) for file in conflicts))
    raise RunError(
        f"{first}. {len(others)} more files cannot be gone on with either: move {folders} away, or use the options "
        "that they were made with"
    ) from first
