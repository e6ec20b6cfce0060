"""Training by 2 and 4 gloo processes, beside the same training by one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from skreg.data import parts
from skreg.training import load_run, train
from skreg.training.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("processes.py")
specification = importlib.util.spec_from_file_location("skreg_training_processes", SCRIPT)
processes = importlib.util.module_from_spec(specification)
specification.loader.exec_module(processes)

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no gloo processes", allow_module_level=True)

COUNTS = (2, 4)
# TRADES begins to climb so near the image that some gradients are mere rounding, and their signs are whole steps.
# exp of a layer's sum, some 30 here, magnifies the rounding of that sum.
ATOL = {"TR": 1e-3, "fsdp-VR": 2e-5}


def launch(count: int, *program: object, rendezvous: Sequence[str] = ("--standalone",)) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", *rendezvous, f"--nproc-per-node={count}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.Popen(
        [*command, *map(str, program)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders COUNT/NAME. "grown" was begun by 2 processes and ended by 4."""
    root = tmp_path_factory.mktemp("processes")
    for count in COUNTS:
        if count == 4:
            shutil.copytree(root / "2" / "grown", root / "4" / "grown")
        process = launch(count, SCRIPT, root / str(count), *processes.RUNS)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
    return root


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory):
    """The same runs by one process, made when they are asked for."""
    root, runs = tmp_path_factory.mktemp("alone"), {}

    def run(name: str, **changes: object):
        key = name, *changes.items()
        if key not in runs:
            runs[key] = train(processes.config(name, **changes), root / str(len(runs)))
        return runs[key]

    return run


def assert_close(found, expected, atol: float = 2e-6) -> None:
    """Equal up to the order in which float32 numbers are summed."""
    found_state, expected_state = (read_checkpoint(run.path / "last.pt") for run in (found, expected))
    assert found_state["model"].keys() == expected_state["model"].keys()
    for name, weight in expected_state["model"].items():
        torch.testing.assert_close(
            found_state["model"][name], weight, rtol=1e-4, atol=atol, msg=lambda m, n=name: n + m
        )
        assert (found_state["model"][name] - weight).abs().mean() < 3e-5, name
    numbers, theirs = found_state["optimizer"], expected_state["optimizer"]
    # Sharded weights are not updated by the fused form of the optimizer; nothing else differs.
    for saved, fused in ((numbers, not found.config.fsdp), (theirs, True)):
        assert {bool(group.pop("fused")) for group in saved["param_groups"]} == {fused}
    assert numbers["param_groups"] == theirs["param_groups"]
    assert numbers["state"].keys() == theirs["state"].keys()
    for number, state in theirs["state"].items():
        torch.testing.assert_close(numbers["state"][number], state, rtol=1e-3, atol=1e-5)
    assert torch.equal(found_state["noise"], expected_state["noise"])
    assert len(found.log) == len(expected.log)
    for mine, other in zip(found.log, expected.log):
        for key in (
            "loss",
            "data_loss",
            "penalty",
            "train_accuracy",
            "validation_loss",
            "validation_accuracy",
            "score",
        ):
            assert mine[key] == pytest.approx(other[key], rel=1e-4), key


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", [name for name in processes.RUNS if name != "grown"])
def test_the_result_is_that_of_one_process(folder, alone, count, name):
    found = load_run(folder / str(count) / name)
    assert {record["processes"] for record in found.log} == {count}
    assert_close(found, alone(name), ATOL.get(name, 2e-6))
    assert sorted(file.name for file in found.path.iterdir()) == sorted(
        file.name for file in alone(name).path.iterdir()
    )


def test_machines_meet_by_the_rendezvous(alone, tmp_path):
    """Two agents, as on two machines, each with one process; both have the run folder, and rank 0 writes it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    nodes = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--local-addr=localhost")
    agents = [launch(1, SCRIPT, tmp_path, "V", rendezvous=nodes) for _ in range(2)]
    outputs = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    found = load_run(tmp_path / "V")
    assert {record["processes"] for record in found.log} == {2}
    assert_close(found, alone("V"))


@pytest.mark.parametrize("count", [1, 4])
def test_a_sharded_run_goes_on_in_another_number_of_processes(folder, alone, tmp_path, count):
    if count == 4:
        grown = load_run(folder / "4" / "grown")
    else:
        shutil.copytree(folder / "2" / "grown", tmp_path / "run")
        grown = train(processes.config("grown", epochs=2), tmp_path / "run", resume=True)
    assert [record["processes"] for record in grown.log] == [2, count]
    expected = alone("grown", epochs=2)
    # Adam divides by gradients that are nearly 0, so single weights may differ by a share of a step.
    found, wanted = (read_checkpoint(run.path / "last.pt") for run in (grown, expected))
    for name, weight in wanted["model"].items():
        difference = (found["model"][name] - weight).abs()
        assert difference.mean() < 1e-6, name
        assert difference.max() < 1e-3, name
    assert found["optimizer"]["state"].keys() == wanted["optimizer"]["state"].keys()
    assert float(found["optimizer"]["state"][0]["step"]) == float(wanted["optimizer"]["state"][0]["step"]) == 8
    assert grown.log[-1]["loss"] == pytest.approx(expected.log[-1]["loss"], rel=1e-4)


def test_sigterm_ends_all_processes_and_loses_nothing(tmp_path):
    run, options = tmp_path / "run", "--data four-shapes --variant V --limit 64 --batch-size 18 --optimizer sgd"
    process = launch(2, "-m", "skreg", "train", *options.split(), "--epochs", 100_000, "--output", run)
    deadline = time.monotonic() + 300
    while not (run / "log.jsonl").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "epochs; go on with --resume" in output
    assert "2 processes (copies of the net): 18 images a step, 9 a process; learning rate 0.001, not scaled" in output
    assert read_checkpoint(run / "last.pt")["epoch"] == len(load_run(run).log) >= 1


def test_the_group_ends_with_its_threads(tmp_path):
    process = launch(2, SCRIPT.parents[1] / "gloo_threads.py", SCRIPT, tmp_path / "run", "join")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert load_run(tmp_path / "run").log


def test_a_process_that_fails_ends_the_others(tmp_path):
    process = launch(2, SCRIPT, tmp_path / "run", "fail")
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "FloatingPointError: epoch 1, step 2: rank 1 has had enough" in output
    assert read_checkpoint(tmp_path / "run" / "last.pt")["epoch"] == 0


@pytest.mark.parametrize(("count", "batch_size", "ranks"), [(10, 4, 3), (7, 5, 4), (5, 5, 1), (3, 8, 4)])
@pytest.mark.parametrize("workers", [0, 1])
def test_parts_hold_every_image_once(count, batch_size, ranks, workers):
    if workers and ranks != 3:
        pytest.skip("one case is enough for the workers")
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    dealt = [
        list(parts(images, torch.arange(count), order, batch_size, rank=rank, ranks=ranks, workers=workers))
        for rank in range(ranks)
    ]
    seen = []
    for batch in zip(*dealt, strict=True):
        assert sum(part.counted for part in batch) == batch[0].batch
        assert max(part.counted for part in batch) - min(part.counted for part in batch) <= 1
        for rank, part in enumerate(batch):
            assert len(part.images) == max(part.counted, 1)
            assert torch.equal(part.images.flatten() * 255, part.labels.float())
            assert not part.counted or part.start == sum(other.counted for other in batch[:rank])
            seen += part.labels[: part.counted].tolist()
    assert seen == order.tolist()
