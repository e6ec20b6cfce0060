"""Evaluation of trained runs, with the result kept beside the weights."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from skreg._checks import check_count
from skreg.data import DATASETS, load
from skreg.evaluation.attacks import ATTACKS
from skreg.evaluation.evaluate import Evaluation, evaluate_model
from skreg.evaluation.lock import locked
from skreg.evaluation.planned import check_attacks, find_conflicts, plan_attacks, refuse_conflicts
from skreg.evaluation.progress import Step
from skreg.evaluation.results import as_dict, write_json
from skreg.training import Run, RunError, load_run

EVALUATION_FILE = "evaluation.json"
RESULTS_FOLDER = "evaluation"  # results of the attacks, image by image

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
    progress: Callable[[Step], None] | None = None,
) -> list[Evaluation]:
    """Evaluate the best weights of each run on its test set, and write RUN/evaluation.json.

    RUN/evaluation/ keeps the results of all attacks image by image: an interrupted evaluation goes on from there, and a
    larger `limit` attacks the new images only, with those that share a batch with them. Results of other weights, seed
    or version are an error, which is found in the folders of all runs before the first attack.

    Args:
        paths: run folders, as `skreg.training.train` writes them.
        attacks: names among `skreg.evaluation.CHOICES`.
        limit: number of test images, the same ones for all runs of a data set; None for all.
        preset, batch_size, seed: as in `run_attack`.
        device: where to compute; None for a GPU where there is one.
        data_root: folder of the data; None for the one used in training.
        progress: is called as each attack begins, and after each batch; `str(step)` is a line for people.

    Returns:
        An evaluation a run, in the order of `paths`, named after its folder.

    Raises:
        RunError: a path holds no readable run or results of something else, another process evaluates it, or the
            result cannot be written.
        ValueError: no runs, the same one twice, or a bad option.
        FloatingPointError: a model's logits are not finite; names the run.
        ModuleNotFoundError: an attack's package is missing; names the extra.
    """
    if not paths:
        raise ValueError("paths: expected at least one run folder, found none")
    _check_distinct(paths)
    # All options and folders first, so that a slip is found before hours of work.
    check_attacks(attacks, preset)
    check_count("batch_size", batch_size)
    runs = [load_run(path) for path in paths]
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    conflicts: dict[Path, RunError] = {}
    for run in runs:
        folder = run.path / RESULTS_FOLDER
        if folder.is_dir():
            with locked(folder):  # so that a folder in use is found now, too
                plan = plan_attacks(attacks, preset, _eps(run))
                conflicts |= find_conflicts(folder, plan, *_load(run, limit, device, data_root), seed)
    refuse_conflicts(conflicts)
    evaluations = []
    for index, (path, run, name) in enumerate(zip(paths, runs, run_names(paths), strict=True)):

        def told(step: Step, before: int = index) -> None:
            if progress is not None:
                progress(dataclasses.replace(step, share=(before + step.share) / len(runs)))

        try:
            evaluation = evaluate_model(
                *_load(run, limit, device, data_root),
                eps=_eps(run),
                name=name,
                data=run.config.data,
                attacks=attacks,
                bound=PAPER_BOUNDS.get(run.config.data),
                preset=preset,
                batch_size=batch_size,
                seed=seed,
                folder=Path(path) / RESULTS_FOLDER,
                progress=told,
            )
        except FloatingPointError as error:
            raise FloatingPointError(f"{os.fspath(path)}: {error}") from error
        evaluation = dataclasses.replace(evaluation, variant=run.config.variant)
        write_json(Path(path) / EVALUATION_FILE, as_dict(evaluation))
        evaluations.append(evaluation)
    return evaluations


def _eps(run: Run) -> float:
    return DATASETS[run.config.data].eps if run.config.eps is None else run.config.eps


def _load(
    run: Run, limit: int | None, device: str | torch.device, data_root: str | os.PathLike[str] | None
) -> tuple[nn.Module, Tensor, Tensor]:
    """What is attacked: the run's best weights, with images and labels of its test set."""
    pixels, labels = load(run.config.data, "test", data_root or run.config.data_root, limit)
    return run.load_model("best", device), pixels.to(device).float() / 255, labels.to(device)


def _check_distinct(paths: Sequence[str | os.PathLike[str]]) -> None:
    folders = [Path(path).resolve() for path in paths]
    twice = dict.fromkeys(
        os.fspath(path) for path, folder in zip(paths, folders, strict=True) if folders.count(folder) > 1
    )
    if twice:
        raise ValueError(f"paths: expected each run once, found twice: {', '.join(twice)}; leave one out")


def run_names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The folders' own names, or the whole paths where those do not tell them apart."""
    names = [Path(path).resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [os.fspath(path) for path in paths]
