from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from skreg.evaluation import evaluate_model, evaluate_runs, lock
from skreg.evaluation.lock import locked
from skreg.training import RunError, TrainConfig, train

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path`."""
    pytest.importorskip("fcntl")
    command = [sys.executable, "-c", HOLD, str(tmp_path / lock.LOCK_FILE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_folder_in_use_is_left_alone_until_its_process_dies(holder, make_linear, grey_images, tmp_path):
    model = make_linear(2)
    labels = model(grey_images).argmax(dim=1)
    being_written = tmp_path / ".paper-fgsm.safetensors.1.tmp"
    being_written.touch()
    before = sorted(tmp_path.iterdir())
    options = {"eps": 0.02, "attacks": ["fgsm"], "folder": tmp_path}
    with pytest.raises(RunError, match="is being evaluated by another process; wait for it") as raised:
        evaluate_model(model, grey_images, labels, **options)
    assert str(raised.value).startswith(f"{tmp_path} is")
    assert sorted(tmp_path.iterdir()) == before
    holder.kill()
    holder.wait()
    evaluate_model(model, grey_images, labels, **options)
    assert (tmp_path / "paper-fgsm.safetensors").exists()
    assert not being_written.exists()


def test_the_lock_is_freed_by_an_error_too(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "new" / "folder"):
        raise KeyboardInterrupt
    with locked(tmp_path / "new" / "folder"):
        pass


def test_a_second_run_in_use_is_found_before_the_first_is_attacked(tmp_path):
    pytest.importorskip("fcntl")
    config = TrainConfig(data="four-shapes", variant="V", limit=40, epochs=1, validation_attack_steps=1, device="cpu")
    paths = [train(config, tmp_path / name).path for name in ("first", "second")]
    with locked(paths[1] / "evaluation"), pytest.raises(RunError, match="second/evaluation is being evaluated"):
        evaluate_runs(paths, attacks=[], limit=2)
    assert not (paths[0] / "evaluation").exists()


@pytest.mark.parametrize("error", [None, OSError(95, "Operation not supported")])
def test_systems_without_locks_go_without(tmp_path, monkeypatch, error):
    if error is None:
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        pytest.importorskip("fcntl")

        def refuse(file, flags):
            raise error

        monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with locked(tmp_path), locked(tmp_path):
        pass


def test_a_lock_that_cannot_be_written_is_named(tmp_path):
    pytest.importorskip("fcntl")
    (tmp_path / lock.LOCK_FILE).mkdir()
    with pytest.raises(RunError, match=r"cannot write .*\.lock: Is a directory"), locked(tmp_path):
        pass


def test_a_folder_that_nobody_can_write_needs_no_lock(tmp_path, monkeypatch):
    pytest.importorskip("fcntl")

    def refuse(path, mode):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with locked(tmp_path), locked(tmp_path):
        pass
