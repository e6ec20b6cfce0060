from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skreg.evaluation import (
    ATTACKS,
    NORMS,
    Curve,
    Proportion,
    as_dict,
    evaluate_runs,
    has_results,
    is_evaluated,
    read_evaluation,
    read_results,
)
from skreg.evaluation.results import write_json
from skreg.evaluation.store import read_stored
from skreg.training import Run, RunError, TrainConfig
from skreg.training.checkpoint import write_best
from skreg.training.run import build_model, create_run

distances = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.3, 7.0, math.inf]), max_size=12)


@given(distances)
def test_a_curve_counts_the_images_that_are_farther_away(values):
    curve = Curve(torch.tensor(sorted(values), dtype=torch.float64))
    bounds, shares = curve.steps()
    assert bounds == sorted({0.0, *(value for value in values if value < math.inf)})
    for eps, share in zip(bounds, shares):
        assert share == curve.at(eps) == Proportion(sum(value > eps for value in values), len(values))
        assert curve.at(eps + 1e-3) == share  # it falls nowhere else
    assert curve.failed == sum(value == math.inf for value in values) == shares[-1].count == curve.at(1e9).count
    assert curve.searches == curve.at(0).count == sum(value > 0 for value in values)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A net that was never trained, evaluated on six images."""
    config = TrainConfig(data="four-shapes", variant="V", epochs=1, eps=0.02, device="cpu").resolved()
    run = create_run(config, tmp_path_factory.mktemp("runs") / "V")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_best(run.path, build_model(config).state_dict(), epoch=1, score=0.5)
    evaluate_runs([run.path], attacks=["deepfool_linf", "fgsm"], limit=6)
    return run


def test_results_are_those_of_the_files(run):
    found = read_results(run)
    assert list(found.results) == ["fgsm", "deepfool_linf"]  # in the order of ATTACKS
    assert all(attack in ATTACKS for attack in found.results)
    for attack in found.results:
        facts, images, stored = read_stored(run.path / "evaluation" / f"paper-{attack}.safetensors")
        assert (facts["attack"], facts["preset"]) == (attack, "paper")
        assert torch.equal(found.images[attack], images)
        for norm in NORMS:
            assert torch.equal(found.curve(attack, norm).distances, getattr(stored, norm).sort().values)
            assert torch.equal(found.curve(attack, norm, 3).distances, getattr(stored, norm)[:3].sort().values)
    with pytest.raises(ValueError, match="norm must be one of"):
        found.curve("fgsm", "l3")


def test_curves_begin_and_end_where_the_table_says(run):
    evaluation, found = read_evaluation(run), read_results(run)
    for summary in evaluation.attacks:
        curve = found.curve(summary.attack, "linf")
        assert curve.at(0) == evaluation.clean
        assert curve.at(2) == summary.accuracy  # no bound in this data set
        assert (curve.searches, curve.failed) == (summary.searches, summary.failed)


def test_an_evaluation_is_read_as_it_was_written(run):
    (written,) = evaluate_runs([run.path], attacks=["deepfool_linf", "fgsm"], limit=6)
    assert read_evaluation(run) == written


def test_infinite_medians_come_back(run):
    file = run.path / "evaluation.json"
    before = file.read_text()
    evaluation = read_evaluation(run)
    record = as_dict(evaluation)
    record["attacks"][0].update(median_l2=None, searches=3)
    record["attacks"][1].update(median_l2=None, searches=0)
    write_json(file, record)
    try:
        first, second = read_evaluation(run).attacks
    finally:
        file.write_text(before)
    assert first.median_l2 == math.inf
    assert math.isnan(second.median_l2)


def test_missing_and_damaged_files_are_named(run, tmp_path):
    bare = Run(tmp_path / "bare", run.config, {})
    assert not has_results(bare)
    assert not is_evaluated(bare)
    with pytest.raises(RunError, match=r"bare has no distances of adversarials \(preset paper\); run `skreg evaluate"):
        read_results(bare)
    with pytest.raises(RunError, match=r"bare is not evaluated: run `skreg evaluate .*bare` first"):
        read_evaluation(bare)
    with pytest.raises(ValueError, match="preset must be one of"):
        read_results(run, preset="foolbox")
    bare.path.mkdir()
    for text in ("{", "[1]", '{"name": "V"}', '{"name": 3}'):
        (bare.path / "evaluation.json").write_text(text)
        with pytest.raises(RunError, match=r"evaluation.json: damaged, or of another version of skreg"):
            read_evaluation(bare)
    with pytest.raises(RunError, match="damaged or no result of skreg"):
        read_stored(bare.path / "evaluation.json")
    with pytest.raises(RunError, match="damaged or no result of skreg"):
        read_stored(bare.path / "nothing.safetensors")


def test_results_of_other_weights_are_refused(run):
    best = run.path / "best.safetensors"
    before = best.read_bytes()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        write_best(run.path, build_model(run.config).state_dict(), epoch=2, score=0.6)
    try:
        with pytest.raises(RunError, match=r"paper-fgsm.safetensors holds results of other weights .*trained on since"):
            read_results(run)
        with pytest.raises(RunError, match=r"evaluation.json is an evaluation of other weights"):
            read_evaluation(run)
    finally:
        best.write_bytes(before)


def test_attacks_of_fixed_radius_have_no_curve(run):
    folder = run.path / "evaluation"
    copies = [Path(folder / f"foolbox3-{attack}.safetensors") for attack in ("fgsm", "deepfool_linf")]
    for copy, attack in zip(copies, ("fgsm", "deepfool_linf")):
        copy.write_bytes((folder / f"paper-{attack}.safetensors").read_bytes())
    try:
        assert list(read_results(run, preset="foolbox3").results) == ["deepfool_linf"]
    finally:
        for copy in copies:
            copy.unlink()
