"""The stages from data to report: tune, train, evaluate, write. Each goes on from what is there."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from skreg._checks import check_choice, check_count
from skreg.data import load
from skreg.evaluation import Evaluation, evaluate_runs
from skreg.evaluation.results import write_json
from skreg.reproduction.folder import RECIPE_FILE, REPORT_FOLDER, RUNS_FOLDER, TUNING_FILE, TUNING_FOLDER
from skreg.reproduction.launch import train_run
from skreg.reproduction.recipes import Recipe
from skreg.reproduction.report import write_report
from skreg.reproduction.tuning import tune
from skreg.training import VARIANTS, ConsoleProgress, Run, RunError, Terminated, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is made with a recipe, and how; nothing here changes a result that is there.

    Attributes:
        variants: names in `skreg.training.VARIANTS`.
        seeds: number of seeds, from 0.
        tune: choose gamma and strength by validation first, see `skreg.reproduction.tuning`.
        nproc: processes a training; more than one are started by `torchrun`.
        device: of training and evaluation; "auto": a GPU where there is one.
        data_root: folder of the data set; None searches the usual places.
    """

    variants: Sequence[str] = VARIANTS
    seeds: int = 1
    tune: bool = False
    nproc: int = 1
    device: str = "auto"
    data_root: str | None = None

    def __post_init__(self) -> None:
        if not self.variants:
            raise ValueError(f"variants: expected some of {', '.join(VARIANTS)}, found none")
        for variant in self.variants:
            check_choice("variant", variant, VARIANTS)
        check_count("seeds", self.seeds)
        check_count("nproc", self.nproc)


def reproduce(
    recipe: Recipe, output: str | os.PathLike[str], options: Options, *, console: Console | None = None
) -> list[Evaluation]:
    """Train the variants of a recipe, evaluate them, and write OUTPUT/report.

    OUTPUT/recipe.json holds the recipe, OUTPUT/runs/VARIANT the run of the first seed and OUTPUT/runs/VARIANT-seedN
    those of the others, OUTPUT/tuning and OUTPUT/tuning.json what `tune` tried and chose. Called again, it
    goes on: finished runs are read, evaluated images are not attacked again. More variants, seeds and test
    images may be asked for later.

    Args:
        recipe: such as `RECIPES["fashion-mnist"]`.
        output: the folder; made when it is missing.
        options: what is made with the recipe.
        console: where to tell what happens; None for stderr.

    Returns:
        An evaluation a run, in the order of the variants, then of the seeds.

    Raises:
        RunError: the folder holds results of another recipe (it says what differs), or something in it is damaged.
        KeyboardInterrupt: passed on; what is finished is kept.
        ValueError, TypeError, DatasetNotFoundError, ...: as training and evaluation do.
    """
    folder, console = Path(output), console or Console(stderr=True)
    try:
        return _Reproduction(recipe, folder, options, console).run()
    except KeyboardInterrupt as interrupt:
        kind = Terminated if isinstance(interrupt, Terminated) else KeyboardInterrupt
        raise kind(f"{folder} keeps what is finished; the same command goes on from there") from None


@dataclass
class _Reproduction:
    recipe: Recipe
    folder: Path
    options: Options
    console: Console

    def run(self) -> list[Evaluation]:
        for split in ("train", "test"):  # missing files are found out now, not after hours of training
            load(self.recipe.data, split, self.options.data_root, limit=1)
        self._keep_recipe()
        if self.options.tune:
            losses = tuple(dict.fromkeys(variant[0] for variant in self.options.variants))
            earlier = self._earlier_tuning()  # a damaged file is found out now, not after hours of tuning
            self.recipe, record = tune(self.recipe, losses, self._train_candidate)
            self._keep_tuning(earlier, record)
        runs = {name: self._train(name, config) for name, config in self._runs().items()}
        with self.console.status("") as status:
            evaluations = evaluate_runs(
                [run.path for run in runs.values()],
                attacks=self.recipe.attacks,
                limit=self.recipe.test_images,
                device=None if self.options.device == "auto" else self.options.device,
                data_root=self.options.data_root,
                progress=lambda step: status.update(f"evaluating {step}"),
            )
            status.update("writing the report")
            write_report(self.folder / REPORT_FOLDER, self.recipe, runs, evaluations, status.update)
        return evaluations

    def _earlier_tuning(self) -> dict[str, Any]:
        """What was chosen for other losses before."""
        file = self.folder / TUNING_FILE
        earlier = _read(file) if file.exists() else {"chosen": {}, "candidates": []}
        candidates = earlier.get("candidates")
        readable = isinstance(earlier.get("chosen"), dict) and isinstance(candidates, list)
        if not readable or not all(isinstance(each, dict) and "run" in each for each in candidates or []):
            raise RunError(
                f'{file}: damaged, expected an object "chosen" and a list "candidates" of objects with a "run"; put '
                "back a copy, or move it away to lose what was chosen for other losses"
            )
        return earlier

    def _keep_tuning(self, earlier: dict[str, Any], record: dict[str, Any]) -> None:
        """Write what was chosen, beside what was chosen for other losses before."""
        new = {candidate["run"] for candidate in record["candidates"]}
        kept = [candidate for candidate in earlier["candidates"] if candidate["run"] not in new]
        record = {
            **record,
            "chosen": {**earlier["chosen"], **record["chosen"]},
            "candidates": kept + record["candidates"],
        }
        write_json(self.folder / TUNING_FILE, record)

    def _runs(self) -> dict[str, TrainConfig]:
        """The configuration of each run by its name."""
        options = self.options
        return {
            variant if seed == 0 else f"{variant}-seed{seed}": self.recipe.config(
                variant, seed=seed, device=options.device, data_root=options.data_root
            )
            for variant in dict.fromkeys(options.variants)
            for seed in range(options.seeds)
        }

    def _train(self, name: str, config: TrainConfig) -> Run:
        return self._train_in(self.folder / RUNS_FOLDER / name, config)

    def _train_candidate(self, recipe: Recipe, variant: str, name: str) -> Run:
        config = recipe.config(variant, device=self.options.device, data_root=self.options.data_root)
        return self._train_in(self.folder / TUNING_FOLDER / name, config)

    def _train_in(self, folder: Path, config: TrainConfig) -> Run:
        self.console.print(f"training {folder}", style="bold", highlight=False, markup=False, soft_wrap=True)
        return train_run(config, folder, nproc=self.options.nproc, progress=ConsoleProgress(self.console))

    def _keep_recipe(self) -> None:
        """Write the recipe, or compare it with the one that is there."""
        file = self.folder / RECIPE_FILE
        wanted = {**self.recipe.as_dict(), "tuned": self.options.tune}
        if file.exists():
            differing = _differences(_read(file), wanted)
            if differing:
                raise RunError(
                    f"{self.folder} was made with another recipe: {', '.join(differing)}. Nothing was changed: use the "
                    "old values, or another folder"
                )
        elif self.folder.is_dir() and any(not each.name.startswith(".") for each in self.folder.iterdir()):
            raise RunError(f"{self.folder} is not empty and holds no {RECIPE_FILE}; choose another folder")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make {self.folder}: {error.strerror or error}") from error
        write_json(file, wanted)


# The images are attacked one by one, so more of them and other attacks only add to what is there.
_MAY_CHANGE = ("attacks", "test_images")


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two recipes, as `key (was 1, now 2)`."""
    found = []
    for name in dict.fromkeys((*old, *new)):
        before, now = old.get(name), new.get(name)
        if before == now or (not prefix and name in _MAY_CHANGE):
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            found += _differences(before, now, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name} (was {before!r}, now {now!r})")
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{file}: damaged, not JSON ({error}); put back a copy, or choose another folder") from error
    if not isinstance(record, dict):
        raise RunError(f"{file}: damaged, expected a JSON object; put back a copy, or choose another folder")
    return record
