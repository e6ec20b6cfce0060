from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from skreg import cli
from skreg.cli.attacks import attack_names
from skreg.data import load
from skreg.evaluation import (
    ATTACKS,
    PAPER_BOUNDS,
    as_dict,
    evaluate_runs,
    read_evaluation,
    robust_accuracy,
    store,
    write_results,
)
from skreg.training import RunError, TrainConfig, load_run, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = TrainConfig(
        data="four-shapes",
        variant="VR",
        limit=100,
        epochs=2,
        eps=0.02,
        validation_attack_steps=1,
        device="cpu",
    )
    return train(config, tmp_path_factory.mktemp("runs") / "VR")


def test_result_lies_beside_the_weights(run):
    steps = []
    (found,) = evaluate_runs([run.path], attacks=["deepfool_l2"], limit=8, progress=steps.append)
    assert json.loads((run.path / "evaluation.json").read_text()) == json.loads(json.dumps(as_dict(found)))
    assert str(steps[0]) == "VR: deepfool_l2, 0 of 8 images"
    assert {each.model for each in steps} == {"VR"}
    assert steps[-1].share <= 1
    assert (found.name, found.data, found.eps, found.bound) == ("VR", "four-shapes", 0.02, None)
    assert read_evaluation(run) == found
    images, labels = load("four-shapes", "test", limit=8)
    assert found.clean == robust_accuracy(run.load_model(), images.float() / 255, labels, [])
    assert not [path for path in run.path.iterdir() if path.name.endswith(".tmp")]


def test_the_variant_is_the_runs_own_also_where_an_old_file_lacks_it(run, tmp_path):
    copy = tmp_path / "mine"
    shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns("evaluation*"))
    (found,) = evaluate_runs([copy], attacks=[], limit=2)
    assert (found.name, found.variant) == ("mine", "VR")
    file = copy / "evaluation.json"
    record = json.loads(file.read_text())
    assert record.pop("variant") == "VR"
    file.write_text(json.dumps(record))
    assert read_evaluation(load_run(copy)) == found


def test_the_paper_bounds_two_data_sets():
    assert PAPER_BOUNDS == {"cifar10": 0.1, "restricted-imagenet": 0.05}


def test_runs_of_one_name_are_told_apart(run, tmp_path):
    copy = tmp_path / "again" / "VR"
    shutil.copytree(run.path, copy)
    found = evaluate_runs([run.path, copy], attacks=[], limit=4)
    assert [each.name for each in found] == [str(run.path), str(copy)]
    assert found[0].clean == found[1].clean


def test_errors_come_before_the_work(run, tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        evaluate_runs([])
    with pytest.raises(ValueError, match=r"each run once, found twice: .*VR, .*VR/\.; leave one out"):
        evaluate_runs([run.path, f"{run.path}/."], attacks=[], limit=2)
    with pytest.raises(ValueError, match="attack must be one of"):
        evaluate_runs([run.path], attacks=["c&w"])
    with pytest.raises(ValueError, match="preset must be one of"):
        evaluate_runs([run.path], preset="foolbox")
    with pytest.raises(RunError, match=r"no run here"):
        evaluate_runs([run.path, tmp_path / "nowhere"])


def test_results_in_one_file(run, tmp_path):
    found = evaluate_runs([run.path], attacks=["deepfool_l2"], limit=4)
    write_results(tmp_path / "all.json", found)
    assert json.loads((tmp_path / "all.json").read_text())[0]["name"] == "VR"
    write_results(tmp_path / "all.md", found)
    assert (tmp_path / "all.md").read_text().startswith("### Table 1: accuracy under attack, four-shapes")
    write_results(tmp_path / "all.csv", found)
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = {row["column"]: row for row in csv.DictReader(file)}
    assert list(rows) == [
        "clean", "deepfool_l2", "fgsm_at_eps", "pgd_ce_at_eps", "pgd_margin_at_eps", "pgd_at_eps",
        "random_search_at_eps", "worst_case_at_eps", "pgd_at_one",
    ]  # fmt: skip
    (summary,) = found[0].attacks
    assert float(rows["deepfool_l2"]["median_l0"]) == summary.median_l0
    assert rows["deepfool_l2"]["eps"] == rows["clean"]["preset"] == ""
    assert rows["pgd_at_eps"]["eps"] == "0.02"
    assert int(rows["clean"]["right"]) == found[0].clean.count
    with pytest.raises(ValueError, match=r"must end in .json, .csv or .md, found '.txt'"):
        write_results(tmp_path / "all.txt", found)


def skreg(*arguments):
    environment = {"COLUMNS": "300", "NO_COLOR": "1"}
    return CliRunner().invoke(cli.app, [str(each) for each in arguments], env=environment)


def test_command_prints_tables(run, tmp_path):
    result = skreg(
        "evaluate",
        run.path,
        "--attacks",
        "deepfool_linf, deepfool_l2",
        "--limit",
        4,
        "--output",
        tmp_path / "new" / "r.md",
    )
    assert result.exit_code == 0
    assert "Table 1: accuracy under attack, four-shapes" in result.stdout
    assert "DF l2" in result.stdout
    assert "C&W" not in result.stdout
    assert "VR: deepfool_linf, 0 of 4 images" in result.stderr  # no terminal: lines
    assert "DF l2" in (tmp_path / "new" / "r.md").read_text()


def test_command_prints_json_alone_on_stdout(run):
    result = skreg("evaluate", run.path, "--attacks", "fgsm", "--limit", 4, "--preset", "foolbox3", "--json")
    assert result.exit_code == 0
    (record,) = json.loads(result.stdout)
    assert record == json.loads((run.path / "evaluation.json").read_text())
    assert record["preset"] == "foolbox3"
    assert record["clean"]["total"] == 4


def test_command_reports_errors_on_one_line(run, tmp_path):
    result = skreg("evaluate", tmp_path)
    assert result.exit_code == 1
    assert "no run here" in result.stderr
    result = skreg("evaluate", run.path, "--attacks", "fgsm,c&w")
    assert result.exit_code == 2
    assert "unknown attack 'c&w'; expected names among fgsm, pgd, deepfool_l2, deepfool_linf, cw," in result.stderr
    result = skreg("evaluate", run.path, "--output", tmp_path / "r.txt")
    assert result.exit_code == 1
    assert "must end in .json, .csv or .md" in result.stderr
    result = skreg("evaluate", run.path, "--limit", -1)
    assert result.exit_code == 2
    assert "--limit: expected a number of images, or 0 for all, found -1" in result.stderr


def test_an_output_that_cannot_be_written_is_told_before_the_work(run, tmp_path, monkeypatch):
    def error(output):
        result = skreg("evaluate", run.path, "--attacks", "fgsm", "--limit", 4, "--output", output)
        assert result.exit_code == 1
        assert "images" not in result.stderr
        return result.stderr

    (tmp_path / "d.json").mkdir()
    (tmp_path / "file").touch()
    assert "d.json: expected the name of a file, found a folder" in error(tmp_path / "d.json")
    assert f"to write it to, but {tmp_path / 'file'} is a file" in error(tmp_path / "file" / "r.json")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root may write anywhere
    assert f"to write it to, but {tmp_path} is read-only" in error(tmp_path / "new" / "r.json")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_result_is_shown_also_where_its_file_cannot_be_written(run, tmp_path, monkeypatch, options):
    def full(path, evaluations):
        raise RunError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(cli.evaluate, "write_results", full)
    arguments = ["evaluate", run.path, "--attacks", "fgsm", "--limit", 4, "--output", tmp_path / "r.json"]
    result = skreg(*arguments, *options)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    if options:
        assert json.loads(result.stdout)[0]["name"] == "VR"
    else:
        assert "Table 1: accuracy under attack, four-shapes" in result.stdout


def test_groups_of_attacks():
    assert attack_names("paper") == list(ATTACKS)
    assert attack_names("all") == [*ATTACKS, "autoattack"]
    assert attack_names(" fast, cw") == ["fgsm", "pgd", "deepfool_l2", "deepfool_linf", "adef", "cw"]


def test_missing_package_is_named_before_the_work(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    result = skreg("evaluate", run.path, "--attacks", "all")
    assert result.exit_code == 1
    assert 'pip install "skreg[autoattack]"' in result.stderr
    assert "images" not in result.stderr


def test_a_model_that_overflowed_is_named(run, tmp_path, nan_model, monkeypatch):
    copy = tmp_path / "VR"  # without results, which would be of other weights
    shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns("evaluation*"))
    monkeypatch.setattr(type(run), "load_model", lambda self, which, device: nan_model)
    result = skreg("evaluate", copy, "--attacks", "fgsm", "--limit", 4)
    assert result.exit_code == 1
    assert f"{copy}: the model's logits are NaN or infinite for 4 of 4 images" in result.stderr


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(run, tmp_path, monkeypatch):
    copy = tmp_path / "VR"
    shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns("evaluation*"))
    arguments = ("evaluate", copy, "--attacks", "deepfool_l2", "--limit", 6, "--batch-size", 2, "--json")
    attack, calls = store.run_attack, []

    def interrupted(*arguments, **options):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(arguments)
        return attack(*arguments, **options)

    monkeypatch.setattr(store, "run_attack", interrupted)
    result = skreg(*arguments)
    assert result.exit_code == 130
    assert "stopped: interrupted; finished batches are kept in RUN/evaluation, and the same command" in result.stderr
    assert not (copy / "evaluation.json").exists()
    calls = list(range(5))  # a new list, so that nothing stops it
    again = skreg(*arguments)
    assert len(calls) == 5 + 6 * 3 - 4  # six attacks of three batches, less those that were finished
    shutil.rmtree(copy / "evaluation")
    calls = list(range(5))
    assert skreg(*arguments).stdout == again.stdout


def test_a_kill_loses_no_finished_batch(run, tmp_path):
    copy = tmp_path / "VR"
    shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns("evaluation*"))
    options = ["--attacks", "deepfool_linf", "--limit", "40", "--batch-size", "1", "--device", "cpu"]
    start = "from skreg._console import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", start, "evaluate", str(copy), *options], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    file = copy / "evaluation" / "paper-deepfool_linf.safetensors"
    while not file.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = load_file(file)["linf"]
    assert 0 < len(kept) <= 40
    evaluate_runs([copy], attacks=["deepfool_linf"], limit=len(kept) + 1, batch_size=1, device="cpu")
    assert torch.equal(load_file(file)["linf"][: len(kept)], kept)
    assert not [path for path in (copy / "evaluation").iterdir() if path.name.endswith(".tmp")]


def test_seed_is_recorded(run, tmp_path):
    copy = tmp_path / "VR"
    shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns("evaluation*"))
    assert evaluate_runs([copy], attacks=[], limit=2, seed=5)[0].seed == 5


def test_results_of_images_are_kept_and_used_again(run, monkeypatch):
    first = evaluate_runs([run.path], attacks=["salt_pepper"], limit=6)
    file = run.path / "evaluation" / "paper-salt_pepper.safetensors"
    assert file.is_file()
    monkeypatch.setattr(store, "run_attack", None)  # nothing may be attacked again
    assert evaluate_runs([run.path], attacks=["salt_pepper"], limit=6) == first
    with pytest.raises(RunError, match=r"paper-salt_pepper\.safetensors holds results of another seed"):
        evaluate_runs([run.path], attacks=["salt_pepper"], limit=6, seed=1)


def test_conflicts_in_all_folders_are_found_before_the_first_attack(run, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    for copy in (first, second):
        shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns("evaluation*"))
    evaluate_runs([second], attacks=["fgsm"], limit=4)
    before = {file: file.read_bytes() for file in sorted(second.rglob("*")) if file.is_file()}
    monkeypatch.setattr(store, "run_attack", None)  # nothing may be attacked
    with pytest.raises(RunError) as raised:
        evaluate_runs([first, second], attacks=["deepfool_l2"], limit=4, seed=1)
    message = str(raised.value)
    assert "eps0.02-fgsm.safetensors holds results of another seed: expected 1, found 0" in message
    assert f"4 more files cannot be gone on with either: move {second / 'evaluation'} away" in message
    assert {file: file.read_bytes() for file in sorted(second.rglob("*")) if file.is_file()} == before
    assert not (first / "evaluation").exists()
