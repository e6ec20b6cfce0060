from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from skreg import _console, cli, training
from skreg.cli.application import parse_assignments
from skreg.training import load_run

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--data", "four-shapes", "--limit", "100", "--validation-attack-steps", "1", "--device", "cpu"]
PROGRAM = [sys.executable, "-c", "from skreg._console import main; main()"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def skreg(*arguments):
    """Run a command; a terminal of no width and no colour, so that messages are whole lines."""
    return CliRunner().invoke(cli.app, [str(each) for each in arguments], env={"COLUMNS": "500", "NO_COLOR": "1"})


def test_train_prints_json_alone_on_stdout(tmp_path):
    result = skreg("train", *TINY, "--epochs", 2, "--output", tmp_path / "run", "--json")
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    run = load_run(tmp_path / "run")
    assert printed["run"] == str(tmp_path / "run")
    assert printed["last"] == run.log[-1]
    assert printed["best"] in run.log
    assert run.config.variant == "VR"
    lines = [line for line in result.stderr.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]


def test_train_passes_every_option_on(tmp_path):
    options = {
        "--variant": "AH",
        "--epochs": "1",
        "--batch-size": "32",
        "--optimizer": "sgd",
        "--optimizer-option": "momentum=0.5",
        "--learning-rate": "0.01",
        "--schedule": "step",
        "--schedule-option": "step_size=2",
        "--strength": "0.25",
        "--normalize": "none",
        "--exponentiate": "none",
        "--reduction": "mean",
        "--connectivity": "2",
        "--max-exponent": "3.5",
        "--include": "conv*",
        "--exclude": "conv2*",
        "--eps": "0.05",
        "--attack-steps": "2",
        "--step-size": "0.02",
        "--gamma": "0.5",
        "--validation-fraction": "0.2",
        "--validation-attack-images": "7",
        "--patience": "4",
        "--seed": "11",
        "--precision": "bfloat16",
        "--loader": "workers",
        "--workers": "1",
    }
    flags = ["--channels-last", "--deterministic", "--fsdp", "--optimizer-option", "nesterov=true"]
    pairs = [each for pair in options.items() for each in pair]
    result = skreg("train", *TINY, *pairs, *flags, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.output
    found = load_run(tmp_path / "run").config.as_dict()
    assert found == {
        "data": "four-shapes", "variant": "AH", "data_root": None, "net": "two_conv", "limit": 100,
        "validation_fraction": 0.2, "epochs": 1, "batch_size": 32, "optimizer": "sgd",
        "optimizer_options": {"momentum": 0.5, "nesterov": True}, "learning_rate": 0.01, "schedule": "step",
        "schedule_options": {"step_size": 2}, "eps": 0.05, "attack_steps": 2, "step_size": 0.02, "gamma": 0.5,
        "strength": 0.25, "normalize": None, "exponentiate": None, "reduction": "mean", "connectivity": 2,
        "max_exponent": 3.5, "include": ["conv*"], "exclude": ["conv2*"], "seed": 11, "device": "cpu",
        "precision": "bfloat16", "channels_last": True, "patience": 4, "validation_attack_steps": 1,
        "validation_attack_images": 7, "deterministic": True, "compile": False, "loader": "workers", "workers": 1,
        "fsdp": True,
    }  # fmt: skip
    assert "skreg evaluate" in result.stdout
    assert "conv1.weight" in result.stdout


def test_runs_lists_states_and_best_numbers(tmp_path):
    assert skreg("train", *TINY, "--epochs", 1, "--output", tmp_path / "runs" / "[a]").exit_code == 0
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "config.json").write_text("{")
    result = skreg("runs", tmp_path / "runs")
    assert result.exit_code == 0
    record = load_run(tmp_path / "runs" / "[a]").log[0]
    row = next(line for line in result.stdout.splitlines() if "[a]" in line)
    for cell in ("finished", "four-shapes", "VR", "1/1", f"{record['validation_accuracy']:.3f}"):
        assert cell in row
    assert "damaged" in result.stdout
    assert f"{tmp_path / 'runs' / 'b' / 'config.json'}: damaged, not JSON" in result.stdout
    listed = json.loads(skreg("runs", tmp_path / "runs", "--json").stdout)
    assert [each["state"] for each in listed] == ["finished", "damaged"]
    assert listed[0]["path"] == str(tmp_path / "runs" / "[a]")
    missing = skreg("runs", tmp_path / "nowhere")
    assert missing.exit_code == 1
    assert "nowhere: no such folder" in missing.stderr


def test_train_writes_tensorboard_and_goes_on_with_it(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for epochs in (1, 2):
        options = ["--epochs", epochs, "--output", tmp_path / "run", "--tensorboard"]
        result = skreg("train", *TINY, *options, *(["--resume"] if epochs == 2 else []))
        assert result.exit_code == 0, result.output
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    log = load_run(tmp_path / "run").log
    found = [(event.step, event.value) for event in events.Scalars("training/validation_pgd_accuracy")]
    assert found == [(record["epoch"], pytest.approx(record["validation_pgd_accuracy"])) for record in log]
    roughness = [(event.step, event.value) for event in events.Scalars("roughness/conv1.weight")]
    assert [step for step, _ in roughness] == [0, 1, 2]
    assert roughness[2][1] == pytest.approx(log[1]["layers"][0]["roughness"])
    assert "kernels/conv1.weight" in events.Tags()["images"]


def test_a_mistake_in_an_option_is_a_usage_error(tmp_path):
    result = skreg("train", *TINY, "--variant", "RV", "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "variant: expected one of V, VR" in result.stderr
    result = skreg("train", *TINY, "--optimizer-option", "momentum", "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "--optimizer-option: expected key=value, found 'momentum'" in result.stderr
    assert skreg("train", "--data", "mnist").exit_code == 2
    assert not (tmp_path / "run").exists()


def test_an_error_is_one_line_and_debug_shows_the_rest(tmp_path):
    arguments = ["train", *TINY, "--output", tmp_path / "nothing", "--resume"]
    result = skreg(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert re.fullmatch(r"error: .*no run here.*\n", result.stderr)
    assert type(skreg("--debug", *arguments).exception).__name__ == "RunError"
    assert skreg(*arguments).exit_code == 1  # --debug does not outlive its command


def test_an_unexpected_error_names_its_type(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *_, **__: {}["key"])
    result = skreg("train", *TINY, "--output", tmp_path / "run")
    assert result.exit_code == 1
    assert result.stderr == "error: KeyError: 'key' (run `skreg --debug ...` to see where)\n"


def test_values_are_json_where_they_can_be():
    pairs = ["a=1", "b=[0.9, 0.99]", "c=true", "d=text", "e=x=y", "f=null"]
    expected = {"a": 1, "b": [0.9, 0.99], "c": True, "d": "text", "e": "x=y", "f": None}
    assert parse_assignments("--option", pairs) == expected
    assert parse_assignments("--option", None) == {}


def test_info_says_what_is_installed():
    result = skreg("info", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["versions"]["torch"] == torch.__version__
    assert report["data sets"]["four-shapes"] == "found"
    assert report["device"]["type"] in ("cpu", "cuda")
    assert report["native op"]
    text = skreg("info").stdout
    assert "four-shapes" in text
    assert torch.__version__ in text


def test_info_says_what_is_missing(tmp_path):
    report = json.loads(skreg("info", "--json", "--data-root", tmp_path).stdout)
    assert report["data sets"]["mnist"].startswith("not usable: mnist: files not found")


def test_version_and_help():
    assert re.fullmatch(r"skreg \d+\.\d+\.\d+\n", skreg("--version").stdout)
    assert "Adversarial training" in skreg("train", "--help").stdout


def test_without_the_lab_the_program_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r'skreg: .*"typer".*pip install "skreg\[lab\]"'):
        _console.main()


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for a child process")
def test_ctrl_c_keeps_the_finished_epochs(tmp_path):
    folder = tmp_path / "run"
    arguments = ["train", *TINY, "--epochs", "100000", "--output", str(folder)]
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background starts with Ctrl-C ignored, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not (folder / "log.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, messages
    last_line = messages.strip().splitlines()[-1]
    assert re.fullmatch(r"stopped: .*run holds \d+ of 100000 epochs; go on with --resume .*", last_line)
    assert "Traceback" not in messages

    run = load_run(folder)
    saved = torch.load(folder / "last.pt", weights_only=True)["epoch"]
    assert saved <= len(run.log) <= saved + 1
    assert not list(folder.glob(".*.tmp"))
    run.load_model("last")
