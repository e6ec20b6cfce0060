"""A run folder: config.json and log.jsonl, and what can be done with it (`checkpoint.py` has its weights)."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import skreg.models
from skreg._installation import device_facts, git_commit, versions
from skreg.data import DATASETS
from skreg.training.checkpoint import (
    BEST_FILE,
    LAST_FILE,
    PREVIOUS_FILE,
    RunError,
    read_best,
    read_last_good,
    remove_temporary_files,
    write_file,
)
from skreg.training.config import TrainConfig
from skreg.training.optimization import SCHEDULES_OF_FIXED_LENGTH

CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"

# A run may be made longer, its data may have moved, and how the work is dealt out changes no result; anything else
# would be another run.
_MAY_CHANGE = ("epochs", "data_root", "loader", "workers", "fsdp")


@dataclass
class Run:
    """A training run on disk.

    Attributes:
        path: its folder.
        config: what was trained, with the data set's defaults filled in.
        info: what else is known of it: versions, device, command, date, git commit.
        log: one record an epoch, as in log.jsonl (`skreg.training.train` documents the keys).
    """

    path: Path
    config: TrainConfig
    info: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)

    def load_model(self, which: str = "best", device: str | torch.device = "cpu") -> nn.Module:
        """Build the net and load its weights.

        Args:
            which: "best", the epoch with the best validation score, or "last", the last finished epoch.
            device: where to put it.

        Returns:
            the net in eval mode, in the memory format that it was trained in.

        Raises:
            ValueError: for another `which`.
            RunError: the file is missing, damaged, or holds another net.
        """
        if which not in ("best", "last"):
            raise ValueError(f'which: expected "best" or "last", found {which!r}')
        file = self.path / (BEST_FILE if which == "best" else LAST_FILE)
        weights = read_best(file) if which == "best" else read_last_good(self.path)["model"]
        with torch.random.fork_rng([]):  # its fresh weights are of no use, so they cost the caller no numbers
            model = build_model(self.config)
        load_weights(model, weights, file)
        return model.to(device).to(memory_format=self.config.memory_format).eval()


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a run folder, finished or not.

    Raises:
        RunError: there is no run there, or one of its text files is damaged.
    """
    folder = Path(path)
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise RunError(f"{folder}: no run here ({CONFIG_FILE} is missing); expected a folder made by `skreg train`")
    record = _read_json(file, _read_text(file))
    try:
        config = TrainConfig.from_dict(record.pop("config"))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file}: not a configuration of this version of skreg: {error}") from error
    log_file = folder / LOG_FILE
    lines = _read_text(log_file).splitlines() if log_file.is_file() else []
    log = [_read_json(f"{log_file}, line {number}", line) for number, line in enumerate(lines, start=1)]
    return Run(folder, config, record, log)


def is_unused(folder: Path) -> bool:
    """Whether `folder` exists and holds nothing but what a process left that was killed as it began."""
    return folder.is_dir() and all(_is_left_over(file) for file in folder.iterdir())


def has_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint, good or not, is there."""
    return any((folder / name).exists() for name in (LAST_FILE, PREVIOUS_FILE))


def _is_left_over(file: Path) -> bool:
    return file.name.startswith(f".{CONFIG_FILE}.") and file.name.endswith(".tmp")


def check_free(folder: Path) -> None:
    """Raise RunError when `folder` cannot become a new run folder: it exists and is not an empty folder."""
    if (folder / CONFIG_FILE).exists():
        raise RunError(
            f"{folder} already holds a run; continue it with --resume (resume=True), or choose another folder"
        )
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; choose another name for the run folder")
    if folder.is_dir() and not is_unused(folder):
        raise RunError(f"{folder} is not empty and holds no run; choose another folder")


def create_run(config: TrainConfig, folder: Path) -> Run:
    """Make `folder`, with its parents, and write config.json.

    Raises:
        RunError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_temporary_files(folder)
    except OSError as error:
        raise RunError(f"cannot make the run folder {folder}: {error.strerror or error}") from error
    run = Run(folder, config, describe_session(config))
    write_config(run)
    return run


def reopen_run(config: TrainConfig, folder: Path) -> Run:
    """Read the run that is to be resumed with `config`, whose `epochs` may have grown.

    Raises:
        RunError: there is no run, or it is one of another configuration; the message lists what differs.
    """
    run = load_run(folder)
    old, new = run.config.as_dict(), config.as_dict()
    differing = [name for name in new if new[name] != old[name] and name not in _MAY_CHANGE]
    if new["epochs"] < old["epochs"] or (
        new["epochs"] > old["epochs"] and config.schedule in SCHEDULES_OF_FIXED_LENGTH
    ):
        differing.append("epochs")
    if differing:
        changes = ", ".join(f"{name} (was {old[name]!r}, now {new[name]!r})" for name in differing)
        raise RunError(
            f"{folder} cannot be resumed with another configuration: {changes}. Only epochs may grow, unless "
            f"the schedule is {' or '.join(SCHEDULES_OF_FIXED_LENGTH)}. Use the old values, or another folder"
        )
    return dataclasses.replace(run, config=config)


def cut_log(run: Run, epoch: int) -> None:
    """Drop the records after `epoch`, written by a session that died before it wrote last.pt.

    Raises:
        RunError: records up to `epoch` are missing.
    """
    run.log = [record for record in run.log if record.get("epoch", 0) <= epoch]
    if [record["epoch"] for record in run.log] != list(range(1, epoch + 1)):
        raise RunError(
            f"{run.path / LOG_FILE} lacks some of the {epoch} epochs of {LAST_FILE}; put back a copy, or begin again"
        )


def write_config(run: Run) -> None:
    """Write config.json."""
    text = json.dumps({"config": run.config.as_dict(), **run.info}, indent=2)
    write_file(run.path / CONFIG_FILE, (text + "\n").encode())


def write_log(run: Run) -> None:
    """Write log.jsonl."""
    text = "".join(json.dumps(record) + "\n" for record in run.log)
    write_file(run.path / LOG_FILE, text.encode())


def build_model(config: TrainConfig) -> nn.Module:
    """Build the net of a resolved configuration, with fresh weights from torch's global generator."""
    if config.net is None:
        raise ValueError("net: found None; call resolved() on the configuration first")
    info = DATASETS[config.data]
    return skreg.models.build(config.net, classes=len(info.classes), shape=info.shape, mean=info.mean, std=info.std)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """Copy `weights` into `model`; raises what `check_weights` does."""
    check_weights(model, weights, file)
    model.load_state_dict(weights)


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """Compare the `weights` of `file` with what `model` has.

    Raises:
        RunError: the names or shapes are not those of this net; the message lists them.
    """
    expected = model.state_dict()
    problems = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in weights if name not in expected],
        "another shape": [
            f"{name} (net {tuple(tensor.shape)}, file {tuple(weights[name].shape)})"
            for name, tensor in expected.items()
            if name in weights and weights[name].shape != tensor.shape
        ],
    }
    if any(problems.values()):
        text = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise RunError(f"{file} does not hold the weights of {CONFIG_FILE}'s net: {text}")


def describe_session(config: TrainConfig) -> dict[str, Any]:
    """What is worth knowing of a run beside its configuration."""
    return {
        "versions": versions(),
        "commit": git_commit(),
        "device": device_facts(torch.device(config.device)),
        "command": shlex.join(sys.argv),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file}: cannot be read as text ({error}); put back a copy, or train again") from error


def _read_json(where: object, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{where}: damaged, not JSON ({error}); put back a copy, or train again") from error
    if not isinstance(value, dict):
        raise RunError(f"{where}: damaged, expected a JSON object; put back a copy, or train again")
    return value
