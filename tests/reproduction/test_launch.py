from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from skreg import cli, training
from skreg.reproduction import launch
from skreg.training import RunError, TrainConfig

CONFIG = TrainConfig(
    data="mnist",
    variant="TR",
    limit=50,
    optimizer="sgd",
    optimizer_options={"momentum": 0.9, "nesterov": True},
    schedule="multistep",
    schedule_options={"milestones": [1, 2]},
    normalize=None,
    exponentiate=None,
    max_exponent=-1.5,
    include=("conv1.*", "conv2.*"),
    channels_last=True,
    seed=4,
)


def test_the_command_line_means_the_configuration(tmp_path, monkeypatch):
    seen = {}

    def fake(config, output, **options):
        seen.update(options, config=config, output=output)
        raise RunError("enough")

    monkeypatch.setattr(training, "train", fake)
    arguments = launch.train_arguments(CONFIG, tmp_path / "run", resume=True)
    result = CliRunner().invoke(cli.app, ["train", *arguments])
    assert "enough" in result.stderr
    assert seen["config"] == CONFIG
    assert seen["output"] == tmp_path / "run"
    assert seen["resume"] is True


def test_torchrun_gets_the_number_of_processes(tmp_path):
    command = launch.torchrun_command(CONFIG, tmp_path, nproc=3, resume=False)
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert "--nproc-per-node=3" in command
    assert command[command.index("skreg") - 1 : command.index("skreg") + 2] == ["-m", "skreg", "train"]
    assert "--resume" not in command


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="no gloo processes"
)
def test_two_processes_train_a_run_that_one_goes_on_with(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = TrainConfig(
        data="four-shapes", variant="VR", limit=40, epochs=1, batch_size=20, validation_attack_images=4, device="cpu"
    )
    run = launch.train_run(config, tmp_path / "run", nproc=2)
    assert [record["epoch"] for record in run.log] == [1]
    assert run.log[0]["images_per_second"] > 0
    assert launch.train_run(config, tmp_path / "run").log == run.log


@pytest.mark.parametrize(("status", "error"), [(1, RunError), (130, KeyboardInterrupt), (143, KeyboardInterrupt)])
def test_how_torchrun_ended_is_told(tmp_path, monkeypatch, status, error):
    real = subprocess.Popen
    monkeypatch.setattr(
        launch.subprocess, "Popen", lambda command: real([sys.executable, "-c", f"raise SystemExit({status})"])
    )
    monkeypatch.setattr(launch, "torchrun_command", lambda *arguments, **options: [])
    with pytest.raises(error):
        launch.train_run(CONFIG, tmp_path / "run", nproc=2)
