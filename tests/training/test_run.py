from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from skreg.training import RunError, TrainConfig, load_run, train
from skreg.training.checkpoint import write_checkpoint, write_file

CONFIG = TrainConfig(
    data="four-shapes",
    variant="VR",
    limit=100,
    epochs=1,
    validation_attack_steps=1,
    device="cpu",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run; only to be read, or copied."""
    return train(CONFIG, tmp_path_factory.mktemp("finished") / "a" / "run")


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished.path, tmp_path / "copy")


def test_the_folder_says_everything_about_the_run(finished):
    assert {file.name for file in finished.path.iterdir()} == {
        "config.json",
        "log.jsonl",
        "best.safetensors",
        "last.pt",
        "previous.pt",
    }
    record = json.loads((finished.path / "config.json").read_text())
    assert record["config"]["net"] == "two_conv"
    assert record["config"]["eps"] == 0.1
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert record["device"]["type"] == "cpu"
    assert {"skreg", "python", "torch", "torchvision"} <= record["versions"].keys()
    assert {"command", "date", "commit"} <= record.keys()


def test_load_run_gives_back_the_run(finished):
    run = load_run(str(finished.path))
    assert run == finished
    assert run.config == CONFIG.resolved()


def test_best_and_last_load_in_eval_mode(finished):
    images = torch.rand(2, 1, 28, 28)
    best, last = finished.load_model("best"), finished.load_model("last")
    assert not best.training
    assert torch.equal(best(images), last(images))  # one epoch: they are the same
    with pytest.raises(ValueError, match='which: expected "best" or "last", found \'first\''):
        finished.load_model("first")


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_net_comes_in_the_memory_format_of_its_training(finished, channels_last):
    config = dataclasses.replace(finished.config, channels_last=channels_last)
    model = dataclasses.replace(finished, config=config).load_model()
    # The second one's: with a single channel both formats are the same.
    assert model.conv2.weight.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert torch.equal(model.conv2.weight, finished.load_model().conv2.weight)


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(RunError, match=r"no run here \(config.json is missing\)"):
        load_run(tmp_path)
    with pytest.raises(RunError, match="no run here"):
        train(CONFIG, tmp_path / "run", resume=True)


def test_an_existing_run_is_not_overwritten(finished):
    before = (finished.path / "last.pt").read_bytes()
    with pytest.raises(RunError, match="already holds a run; continue it with --resume"):
        train(CONFIG, finished.path)
    assert (finished.path / "last.pt").read_bytes() == before


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        train(CONFIG, tmp_path)
    with pytest.raises(RunError, match="is a file"):
        train(CONFIG, tmp_path / "thesis.tex")
    with pytest.raises(RunError, match=r"cannot make the run folder .*thesis.tex"):
        train(CONFIG, tmp_path / "thesis.tex" / "run")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_parent_is_found_before_training(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunError, match="cannot make the run folder"):
            train(CONFIG, tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_is_found_before_training(tmp_path, monkeypatch):
    def fail(source, target):
        if str(target).endswith("last.pt"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    replace = os.replace
    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr("skreg.training.trainer._run_epochs", None)
    with pytest.raises(RunError, match=r"cannot write .*last.pt: No space left on device"):
        train(CONFIG, tmp_path / "run")
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["config.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_file(file, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "bad disk")))
    with pytest.raises(RunError, match=r"cannot write .*file: bad disk"):
        write_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0.5}, r"strength \(was 0.001, now 0.5\)"),
        ({"variant": "V", "seed": 4}, r"variant \(was 'VR', now 'V'\), seed \(was 0, now 4\)"),
        ({"include": ("conv1.*",)}, r"include \(was None, now \['conv1.\*'\]\)"),
    ],
)
def test_resuming_with_another_configuration_lists_what_differs(finished, changes, message):
    with pytest.raises(RunError, match=message):
        train(dataclasses.replace(CONFIG, **changes), finished.path, resume=True)


def test_epochs_only_grow_and_not_where_the_schedule_depends_on_them(finished, tmp_path):
    two = dataclasses.replace(CONFIG, epochs=2, schedule="cosine")
    train(two, tmp_path / "run")
    with pytest.raises(RunError, match=r"epochs \(was 2, now 3\)"):
        train(dataclasses.replace(two, epochs=3), tmp_path / "run", resume=True)
    with pytest.raises(RunError, match=r"epochs \(was 2, now 1\)"):
        train(dataclasses.replace(two, epochs=1), tmp_path / "run", resume=True)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_weights_are_named(copy, kept):
    for name in ("best.safetensors", "last.pt", "previous.pt"):
        file = copy / name
        content = file.read_bytes()
        file.write_bytes(content[: int(kept * len(content))])
    run = load_run(copy)
    with pytest.raises(RunError, match=r"best.safetensors is damaged .*last.pt beside it may still be good"):
        run.load_model("best")
    with pytest.raises(RunError, match=r"last.pt is damaged .*best.safetensors beside it may still be good"):
        run.load_model("last")
    with pytest.raises(RunError, match=r"last.pt is damaged"):
        train(CONFIG, copy, resume=True)


def test_missing_and_foreign_files_are_named(copy):
    incomplete = torch.load(copy / "last.pt", weights_only=True)
    del incomplete["cpu_rng"]
    write_checkpoint(copy, incomplete)
    (copy / "previous.pt").unlink()
    with pytest.raises(RunError, match=r"last.pt is not a checkpoint of skreg"):
        train(CONFIG, copy, resume=True)
    write_checkpoint(copy, {"epoch": 1})
    (copy / "previous.pt").unlink()
    with pytest.raises(RunError, match=r"last.pt is not a checkpoint of skreg"):
        load_run(copy).load_model("last")
    (copy / "last.pt").unlink()
    (copy / "best.safetensors").unlink()
    with pytest.raises(RunError, match=r"last.pt is missing"):
        train(CONFIG, copy, resume=True)
    with pytest.raises(RunError, match=r"best.safetensors is missing: no epoch is finished"):
        load_run(copy).load_model()


def test_code_in_a_checkpoint_is_not_run(copy, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (copy / "previous.pt").unlink()
    write_checkpoint(copy, {"payload": Payload()})  # with a checksum that is right
    (copy / "previous.pt").unlink()
    with pytest.raises(RunError, match=r"last.pt is damaged"):
        load_run(copy).load_model("last")
    assert not (tmp_path / "ran").exists()


def test_damaged_text_files_are_named_with_the_line(copy):
    with (copy / "log.jsonl").open("a") as log:
        log.write('{"epoch": 2, "los')
    with pytest.raises(RunError, match=r"log.jsonl, line 2: damaged"):
        load_run(copy)
    (copy / "log.jsonl").unlink()
    with pytest.raises(RunError, match=r"log.jsonl lacks some of the 1 epochs of last.pt"):
        train(CONFIG, copy, resume=True)
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(config[:100])
    with pytest.raises(RunError, match=r"config.json: damaged"):
        load_run(copy)
    (copy / "config.json").write_text(config.replace('"seed"', '"seeed"'))
    with pytest.raises(RunError, match=r"config.json: .*unknown option 'seeed'; did you mean 'seed'"):
        load_run(copy)


def test_weights_of_another_net_list_what_differs(copy):
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(config.replace('"two_conv"', '"resnet18_cifar"'))
    with pytest.raises(RunError, match=r"best.safetensors does not hold.*missing: resnet.conv1.*unexpected: conv1"):
        load_run(copy).load_model()
    (copy / "config.json").write_text(config.replace('"four-shapes"', '"mnist"'))
    with pytest.raises(RunError, match=r"last.pt .*another shape: fc2.weight \(net \(10, 1024\), file \(4, 1024\)"):
        load_run(copy).load_model("last")


def flip(file, share):
    """Change one bit of a file."""
    content = bytearray(file.read_bytes())
    content[int(share * (len(content) - 1))] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 1.0])
def test_one_flipped_bit_is_found(copy, share):
    flip(copy / "last.pt", share)
    (copy / "previous.pt").unlink()
    flip(copy / "best.safetensors", share)
    with pytest.raises(RunError, match=r"last.pt is damaged \(its \d+ bytes do not match the size and checksum"):
        load_run(copy).load_model("last")
    with pytest.raises(RunError, match=r"best.safetensors is damaged"):
        load_run(copy).load_model("best")


def test_weights_that_cannot_be_verified_are_refused(copy):
    save_file(load_run(copy).load_model().state_dict(), copy / "best.safetensors")
    with pytest.raises(RunError, match=r"best.safetensors has no checksum, so it cannot be verified"):
        load_run(copy).load_model()


def test_a_damaged_checkpoint_never_pushes_out_a_good_one(copy):
    good = (copy / "previous.pt").read_bytes()
    flip(copy / "last.pt", 0.5)
    write_checkpoint(copy, {"epoch": 1})
    assert (copy / "previous.pt").read_bytes() == good


def test_torch_reads_a_checkpoint_without_skreg(copy):
    assert torch.load(copy / "last.pt", weights_only=True)["epoch"] == 1
