from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from skreg import cli
from skreg.data import load
from skreg.evaluation import PAPER_BOUNDS, as_dict, evaluate_runs, robust_accuracy, store, write_results
from skreg.training import RunError, TrainConfig, train


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
    steps: list[str] = []
    (found,) = evaluate_runs([run.path], attacks=["deepfool_l2"], limit=8, progress=steps.append)
    assert json.loads((run.path / "evaluation.json").read_text()) == json.loads(json.dumps(as_dict(found)))
    assert steps == ["VR: clean", "VR: deepfool_l2", "VR: eps 0.02"]
    assert (found.name, found.data, found.eps, found.bound) == ("VR", "four-shapes", 0.02, None)
    images, labels = load("four-shapes", "test", limit=8)
    assert found.clean == robust_accuracy(run.load_model(), images.float() / 255, labels, [])
    assert not [path for path in run.path.iterdir() if path.name.endswith(".tmp")]


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
    assert (tmp_path / "all.md").read_text().startswith("### Accuracy, four-shapes")
    with pytest.raises(ValueError, match=r"must end in .json or .md, found '.csv'"):
        write_results(tmp_path / "all.csv", found)


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
    assert "Accuracy, four-shapes" in result.stdout
    assert "deepfool_l2" in result.stdout
    assert "fgsm" not in result.stdout
    assert "deepfool_l2" in (tmp_path / "new" / "r.md").read_text()


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
    result = skreg("evaluate", run.path, "--attacks", "autoattack")
    assert result.exit_code == 1
    assert "'deepfool_l2', 'deepfool_linf', 'cw', 'adef', 'salt_pepper', found 'autoattack'" in result.stderr
    result = skreg("evaluate", run.path, "--output", tmp_path / "r.csv")
    assert result.exit_code == 1
    assert "must end in .json or .md" in result.stderr


def test_seed_is_recorded(run):
    assert evaluate_runs([run.path], attacks=[], limit=2, seed=5)[0].seed == 5


def test_results_of_images_are_kept_and_used_again(run, monkeypatch):
    first = evaluate_runs([run.path], attacks=["salt_pepper"], limit=6)
    file = run.path / "evaluation" / "paper-salt_pepper.safetensors"
    assert file.is_file()
    monkeypatch.setattr(store, "run_attack", None)  # nothing may be attacked again
    assert evaluate_runs([run.path], attacks=["salt_pepper"], limit=6) == first
    with pytest.raises(RunError, match=r"paper-salt_pepper\.safetensors holds results of another seed"):
        evaluate_runs([run.path], attacks=["salt_pepper"], limit=6, seed=1)
