"""Where the parts of a reproduction lie, and the runs that a folder stands for."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from skreg.training import Run, RunError, list_runs, load_run

RECIPE_FILE = "recipe.json"
TUNING_FILE = "tuning.json"
RUNS_FOLDER = "runs"
TUNING_FOLDER = "tuning"
REPORT_FOLDER = "report"


def is_reproduction(path: str | os.PathLike[str]) -> bool:
    """Whether `skreg reproduce` made this folder."""
    return (Path(path) / RECIPE_FILE).is_file()


def load_runs(paths: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """The runs of several folders: a run folder is itself one, a folder of `skreg reproduce` has those of its seed 0.

    Raises:
        RunError: a folder is neither, or a run in it cannot be read; a reproduction has no run of seed 0.
    """
    runs = []
    for path in paths:
        runs += _first_seed(Path(path)) if is_reproduction(path) else [load_run(path)]
    return runs


def finished_besides(folder: str | os.PathLike[str], names: Collection[str]) -> list[str]:
    """The names of a reproduction's finished runs that are not among `names`."""
    others = [path for path in sorted(Path(folder, RUNS_FOLDER).iterdir()) if path.is_dir() and path.name not in names]
    return [path.name for path in others for run in list_runs(path) if run.state == "finished"]


def _first_seed(folder: Path) -> list[Run]:
    inside = folder / RUNS_FOLDER
    found = [load_run(path) for path in sorted(inside.iterdir())] if inside.is_dir() else []
    first = [run for run in found if run.config.seed == 0]
    if not first:
        raise RunError(f"{inside}: expected a run of seed 0, found none; let `skreg reproduce` finish")
    return first
