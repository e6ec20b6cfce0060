"""Real runs, killed at random moments by SIGKILL, by a full disk and by SIGTERM, end as if nothing had happened."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch

from skreg.training import RunError, Terminated, TrainConfig, checkpoint, load_run, train

# Few by default, because each costs a start and a resumed run; SKREG_KILLS=20 (or 200) for the full form.
KILLS = int(os.environ.get("SKREG_KILLS", "6"))
CONFIG = TrainConfig(
    data="four-shapes",
    variant="AR",
    limit=60,
    epochs=5,
    batch_size=24,
    attack_steps=2,
    validation_attack_steps=1,
    schedule="onecycle",
    optimizer_options={"weight_decay": 1e-3},
    device="cpu",
)
TIMES = ("seconds", "images_per_second")


def run_in_child(config, folder, file_size=None, signal_at=None):
    """Train; `signal_at` is the name of a file and a signal that the process gets once that file is there."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal_at is not None:
        raise_once_written(*signal_at)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        train(config, folder, resume=folder.is_dir())
    except RunError as error:
        (folder.parent / "error").write_text(str(error))
        os._exit(1)
    except Terminated as error:
        (folder.parent / "error").write_text(str(error))
        os._exit(143)


def raise_once_written(name, number):
    """From now on the first file of this name, moved to its place, is followed by the signal."""
    replace, raised = os.replace, []

    def replace_and_raise(source, target):
        replace(source, target)
        if Path(target).name == name and not raised:
            raised.append(name)
            os.kill(os.getpid(), number)

    os.replace = replace_and_raise


@pytest.fixture(scope="module")
def context():
    """Children of a fresh process that has imported everything once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["skreg.training", "safetensors.torch"])
    return context


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(CONFIG, tmp_path_factory.mktemp("whole") / "run")


def start(context, config, folder, **options):
    child = context.Process(target=run_in_child, args=(config, folder), kwargs=options)
    child.start()
    return child


def finish(context, config, folder):
    child = start(context, config, folder)
    child.join(120)
    assert child.exitcode == 0


def assert_same_as(whole, folder):
    """All that lasts is the same, bit for bit; nothing is left over."""
    run = load_run(folder)
    log = [[{k: v for k, v in record.items() if k not in TIMES} for record in each.log] for each in (run, whole)]
    assert log[0] == log[1]
    assert (folder / "best.safetensors").read_bytes() == (whole.path / "best.safetensors").read_bytes()
    left, right = (torch.load(path / "last.pt", weights_only=True) for path in (folder, whole.path))
    assert_equal(left, right)
    assert {file.name for file in folder.iterdir()} == {file.name for file in whole.path.iterdir()}


def assert_equal(left, right):
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for mine, other in zip(left, right):
            assert_equal(mine, other)
    else:
        assert left == right


def wait_for_a_write(folder, child):
    """Return in the middle of writing a file, if there is time."""
    end = time.monotonic() + 5
    while child.is_alive() and time.monotonic() < end:
        if folder.is_dir() and any(file.name.endswith(".tmp") for file in folder.iterdir()):
            return


def test_what_a_kill_leaves_is_removed_whatever_was_being_written(tmp_path, monkeypatch):
    """Every temporary file that exists while a file of the run is written: made again, as a kill there leaves it."""
    seen = set()
    monkeypatch.setattr(checkpoint.os, "fsync", lambda _: seen.update(file.name for file in tmp_path.iterdir()))
    checkpoint.write_checkpoint(tmp_path, {"epoch": 0})
    checkpoint.write_checkpoint(tmp_path, {"epoch": 1})
    checkpoint.write_best(tmp_path, {"weight": torch.zeros(1)}, 1, 0.5)
    for name in ("config.json", "log.jsonl"):
        checkpoint.write_file(tmp_path / name, b"{}")
    left_over = {name for name in seen if name.endswith(".tmp")}
    assert len(left_over) == 4
    lasting = {file.name for file in tmp_path.iterdir()}
    for name in left_over:
        (tmp_path / name).write_bytes(b"half")
    checkpoint.remove_temporary_files(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == lasting


def test_kill_9_at_random_moments(context, whole, tmp_path):
    moments, kills, number = random.Random(0), 0, 0
    seconds = sum(record["seconds"] for record in whole.log)
    while kills < KILLS:
        folder, number = tmp_path / f"run{number}", number + 1
        for _ in range(min(4, KILLS - kills)):
            child = start(context, CONFIG, folder)
            if moments.random() < 0.5:
                time.sleep(moments.uniform(0, 0.8 * seconds))
            else:
                time.sleep(moments.uniform(0, 0.3 * seconds))
                wait_for_a_write(folder, child)
            child.kill()
            child.join()
            kills += child.exitcode == -signal.SIGKILL
            if child.exitcode == 0:
                break
        finish(context, CONFIG, folder)
        assert_same_as(whole, folder)
    print(f"{kills} kills of {number} runs")


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_full_disk_ends_the_run_and_it_goes_on_when_there_is_room(context, whole, tmp_path, size):
    """A limit on the size of a file fails a write in its middle, as a full disk does."""
    folder = tmp_path / "run"
    child = start(context, CONFIG, folder, file_size=size)
    child.join(60)
    assert child.exitcode == 1
    assert "cannot write" in (tmp_path / "error").read_text()
    assert not any(file.name.endswith(".tmp") for file in folder.iterdir())
    finish(context, CONFIG, folder)
    assert_same_as(whole, folder)


def test_a_disk_that_fills_up_later_keeps_the_last_good_checkpoint(context, whole, tmp_path):
    folder = tmp_path / "run"
    child = start(context, CONFIG, folder, signal_at=("previous.pt", signal.SIGKILL))
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    child = start(context, CONFIG, folder, file_size=1_000_000)
    child.join(60)
    assert child.exitcode == 1
    assert "No space left" in (tmp_path / "error").read_text() or "too large" in (tmp_path / "error").read_text()
    finish(context, CONFIG, folder)
    assert_same_as(whole, folder)


def test_sigterm_ends_between_steps_and_the_run_goes_on(context, whole, tmp_path):
    folder = tmp_path / "run"
    child = start(context, CONFIG, folder, signal_at=("log.jsonl", signal.SIGTERM))
    child.join(60)
    assert child.exitcode == 143
    assert "go on with --resume" in (tmp_path / "error").read_text()
    finish(context, CONFIG, folder)
    assert_same_as(whole, folder)


@pytest.mark.parametrize("kept", [0.0, 0.9999])
def test_a_truncated_checkpoint_costs_one_epoch(context, whole, tmp_path, kept):
    folder = tmp_path / "run"
    train(dataclasses.replace(CONFIG, schedule="constant", epochs=2), tmp_path / "longer")
    train(dataclasses.replace(CONFIG, schedule="constant", epochs=2), folder)
    content = (folder / "last.pt").read_bytes()
    (folder / "last.pt").write_bytes(content[: int(kept * len(content))])
    resumed = train(dataclasses.replace(CONFIG, schedule="constant", epochs=2), folder, resume=True)
    assert (folder / "best.safetensors").read_bytes() == (tmp_path / "longer" / "best.safetensors").read_bytes()
    left, right = (torch.load(path / "last.pt", weights_only=True) for path in (resumed.path, tmp_path / "longer"))
    assert_equal(left, right)
