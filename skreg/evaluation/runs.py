"""Evaluation of trained runs, with the result kept beside the weights."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from skreg._version import __version__
from skreg.data import DATASETS, load
from skreg.evaluation.attacks import ATTACKS
from skreg.evaluation.checks import find_warnings
from skreg.evaluation.evaluate import Evaluation, evaluate_model
from skreg.evaluation.proportion import Proportion
from skreg.training import load_run
from skreg.training.run import write_file

EVALUATION_FILE = "evaluation.json"

# The paper's Table 1 counts an adversarial only within these linf distances; elsewhere any counts.
PAPER_BOUNDS = {"cifar10": 0.1, "restricted-imagenet": 0.05}


def evaluate_runs(
    paths: Sequence[str | os.PathLike[str]],
    *,
    attacks: Sequence[str] = ATTACKS,
    limit: int | None = None,
    preset: str = "paper",
    batch_size: int = 128,
    seed: int = 0,
    device: str | torch.device | None = None,
    data_root: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Evaluation]:
    """Evaluate the best weights of each run on its test set, and write RUN/evaluation.json.

    Args:
        paths: run folders, as `skreg.training.train` writes them.
        attacks: names among `ATTACKS`.
        limit: number of test images, the same ones for all runs of a data set; None for all.
        preset, batch_size, seed: as in `run_attack`.
        device: where to compute; None for a GPU where there is one.
        data_root: folder of the data; None for the one used in training.
        progress: is called with a line before each step.

    Returns:
        An evaluation a run, in the order of `paths`, named after its folder.

    Raises:
        RunError: a path holds no readable run, or the result cannot be written.
        ValueError: no runs, or a bad option.
        FloatingPointError: a model's logits are not finite.
    """
    if not paths:
        raise ValueError("paths: expected at least one run folder, found none")
    runs = [
        load_run(path) for path in paths
    ]  # all of them, so that a wrong path is found before hours of work
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    evaluations = []
    for path, run, name in zip(paths, runs, _names(paths), strict=True):

        def told(step: str, name: str = name) -> None:
            if progress is not None:
                progress(f"{name}: {step}")

        info = DATASETS[run.config.data]
        pixels, labels = load(info.name, "test", data_root or run.config.data_root, limit)
        evaluation = evaluate_model(
            run.load_model("best", device),
            pixels.to(device).float() / 255,
            labels.to(device),
            eps=info.eps if run.config.eps is None else run.config.eps,
            name=name,
            data=info.name,
            attacks=attacks,
            bound=PAPER_BOUNDS.get(info.name),
            preset=preset,
            batch_size=batch_size,
            seed=seed,
            progress=told,
        )
        write_json(Path(path) / EVALUATION_FILE, as_dict(evaluation))
        evaluations.append(evaluation)
    return evaluations


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """`evaluation` as plain values for JSON, which has no infinity or NaN: both become None.

    Shares of images are written as count, total, value and 95% interval; the warnings come along.
    """
    record = {each.name: _plain(getattr(evaluation, each.name)) for each in dataclasses.fields(evaluation)}
    return {"skreg": __version__, **record, "warnings": find_warnings(evaluation)}


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` as JSON, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    write_file(Path(path), (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def _names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The folders' own names, or the whole paths where those do not tell them apart."""
    names = [Path(path).resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [os.fspath(path) for path in paths]


def _plain(value: Any) -> Any:
    if isinstance(value, Proportion):
        record = {
            "count": value.count,
            "total": value.total,
            "value": value.value,
            "interval": value.interval,
        }
        return {key: _plain(item) for key, item in record.items()}
    if dataclasses.is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
