"""Run folders below a folder, each with its state and its best numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from skreg.training.checkpoint import BEST_FILE, RunError, read_best
from skreg.training.run import CONFIG_FILE, load_run
from skreg.training.trainer import is_finished


@dataclass(frozen=True)
class RunSummary:
    """One run at a glance; None where nothing is known.

    Attributes:
        state: "finished", "unfinished" (running, or to be resumed), or "damaged".
        best_epoch, validation_accuracy, validation_pgd_accuracy, roughness: of the best epoch; roughness is D / E of
            the first layer.
        problem: what is wrong with a damaged run.
    """

    path: Path
    state: str
    data: str | None = None
    variant: str | None = None
    epochs_done: int | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    validation_accuracy: float | None = None
    validation_pgd_accuracy: float | None = None
    roughness: float | None = None
    problem: str = ""


def list_runs(folder: str | os.PathLike[str]) -> list[RunSummary]:
    """Summarise all runs in and below `folder`, in the order of their paths. The best weights are verified.

    Raises:
        RunError: `folder` does not exist.
    """
    root = Path(folder)
    if not root.is_dir():
        raise RunError(f"{root}: no such folder; give one that holds run folders made by `skreg train`")
    return [_summarise(config.parent) for config in sorted(root.rglob(CONFIG_FILE))]


def _summarise(path: Path) -> RunSummary:
    try:
        run = load_run(path)
        if run.log:
            read_best(path / BEST_FILE)
            best = max(run.log, key=lambda record: record["score"])
        config, done = run.config, len(run.log)
        if not run.log:
            return RunSummary(path, "unfinished", config.data, config.variant, 0, config.epochs)
        return RunSummary(
            path,
            "finished" if is_finished(config, done, best["epoch"]) else "unfinished",
            config.data,
            config.variant,
            done,
            config.epochs,
            best["epoch"],
            best["validation_accuracy"],
            best["validation_pgd_accuracy"],
            best["layers"][0]["roughness"],
        )
    except RunError as error:
        return RunSummary(path, "damaged", problem=str(error))
    except (KeyError, IndexError, TypeError) as error:
        return RunSummary(path, "damaged", problem=f"log.jsonl lacks what every record has: {error}")
