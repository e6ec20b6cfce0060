from __future__ import annotations

import json
import os
import shutil

import pytest

from skreg.report import build_report
from skreg.training import RunError, load_run

from .conftest import FEW


def test_a_section_has_tables_figures_and_setup(runs):
    steps: list[str] = []
    report = build_report([runs["VR"], runs["V"]], only=FEW, seed=3, progress=steps.append)
    (section,) = report.sections
    assert report.title == "Smooth kernels on four-shapes"
    assert section.data == "four-shapes"
    assert [row[0] for row in section.tables[0].rows] == ["V", "VR"]
    assert [each.name for each in section.drawings] == [
        *("curves-l0", "curves-l2", "curves-linf"),
        *("kernels", "training", "training-roughness", "training-norm"),
    ]
    assert section.missing == ()
    assert {"kernels", "curves", "training"} <= set(steps)
    assert report.made["seed of the figures"] == "3"
    assert "torch" in report.made["versions"]
    assert section.commands["V"] == runs["V"].info["command"]


def test_setup_says_in_what_runs_differ(runs):
    (section,) = build_report([runs["V"], runs["VR"]], only=["kernels"]).sections
    overview, differing, common = section.setup
    best = max(runs["V"].log, key=lambda record: record["score"])
    assert overview.rows[0][:3] == ("V", "2 of 2", str(best["epoch"]))
    assert overview.rows[0][3] == f"{100 * best['validation_accuracy']:.1f}"
    assert ("variant", "V", "VR") in differing.rows
    assert ("limit", "100") in common.rows
    assert ("versions: torch", runs["V"].info["versions"]["torch"]) in common.rows
    assert not {row[0] for row in differing.rows} & {row[0] for row in common.rows}
    options = {*runs["V"].config.as_dict(), "device: type", "commit"}
    assert options <= {row[0] for row in (*differing.rows, *common.rows)}


def test_a_run_without_evaluation_is_shown_with_what_to_run(runs):
    (section,) = build_report(list(runs.values()), only=FEW).sections
    names = [row[0] for row in section.setup[0].rows]
    assert names == ["V", "VR", runs["odd"].path.name]
    assert [row[0] for row in section.tables[0].rows] == ["V", "VR"]
    (sentence,) = section.missing
    assert sentence.startswith('VR <2> & "so" on has no finished evaluation')
    assert f"skreg evaluate '{runs['odd'].path}'" in sentence
    (alone,) = build_report([runs["odd"]], only=FEW).sections
    assert alone.tables == ()
    assert not any(each.name.startswith("curves") for each in alone.drawings)
    assert any(each.name == "training" for each in alone.drawings)


def test_errors_name_the_run(runs, tmp_path):
    with pytest.raises(ValueError, match="runs: expected at least one"):
        build_report([])
    with pytest.raises(ValueError, match="found twice"):
        build_report([runs["V"], runs["V"]])
    with pytest.raises(ValueError, match="only: expected names among"):
        build_report([runs["V"]], only=["picture"])
    with pytest.raises(RunError, match="no run here"):
        build_report([load_run(tmp_path / "nothing")])
    begun = load_run(runs["V"].path)
    begun.log.clear()
    with pytest.raises(RunError, match="V has no finished epoch"):
        build_report([begun])


def test_an_evaluation_of_other_weights_is_refused(runs, tmp_path):
    copy = tmp_path / "V"
    shutil.copytree(runs["V"].path, copy)
    shutil.copy(runs["VR"].path / "evaluation.json", copy)
    with pytest.raises(RunError, match=r"V/evaluation.json is an evaluation of other weights .* `skreg evaluate"):
        build_report([load_run(copy)], only=["kernels"])
    os.remove(copy / "evaluation.json")
    shutil.copy(runs["VR"].path / "best.safetensors", copy)
    with pytest.raises(RunError, match=r"paper-fgsm.safetensors holds results of other weights"):
        build_report([load_run(copy)], only=["curves"])


def test_runs_evaluated_with_other_attacks_do_not_share_a_table(runs, tmp_path):
    copy = tmp_path / "VR"
    shutil.copytree(runs["VR"].path, copy)
    record = json.loads((copy / "evaluation.json").read_text())
    record["attacks"].pop()
    (copy / "evaluation.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="evaluate them together"):
        build_report([runs["V"], load_run(copy)], only=["kernels"])
