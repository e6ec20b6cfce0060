"""Training of one run: in this process, or in several through torchrun."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from skreg.training import Progress, Run, RunError, TrainConfig, load_run, train


def train_run(config: TrainConfig, folder: Path, *, nproc: int = 1, progress: Progress | None = None) -> Run:
    """Train, go on with, or read the run in `folder`, whichever is left to do.

    Args:
        nproc: processes; with more than one, `torchrun` trains, and the files of the run are the same.

    Raises:
        RunError: the folder holds a run of another configuration, or `torchrun` failed.
        KeyboardInterrupt, and what else `skreg.training.train` raises.
    """
    begun = (folder / "config.json").exists()
    if nproc == 1:
        return train(config, folder, resume=begun, progress=progress)
    command = torchrun_command(config, folder, nproc=nproc, resume=begun)
    process = subprocess.Popen(command)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the signal too, and puts its files in order
        raise
    if status in (130, 143, -2, -15):
        raise KeyboardInterrupt
    if status:
        raise RunError(f"{folder}: torchrun ended with status {status}; its output above says why")
    return load_run(folder)


def torchrun_command(config: TrainConfig, folder: Path, *, nproc: int, resume: bool) -> list[str]:
    """The command line that trains `config` in `nproc` processes of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"]
    return [*launcher, "-m", "skreg", "train", *train_arguments(config, folder, resume=resume)]


def train_arguments(config: TrainConfig, folder: Path, *, resume: bool) -> list[str]:
    """The arguments of `skreg train` for `config`: an option for each field that is not at its default."""
    arguments = [f"--output={folder}", *(["--resume"] if resume else [])]
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        option = "--" + each.name.replace("_", "-")
        if value == default:
            continue
        if isinstance(value, dict):
            single = option.removesuffix("s")
            arguments += [f"{single}={key}={json.dumps(item)}" for key, item in value.items()]
        elif isinstance(value, tuple):
            arguments += [f"{option}={item}" for item in value]
        elif isinstance(value, bool):
            arguments.append(option)
        else:
            arguments.append(f"{option}={'none' if value is None else value}")
    return arguments
