from __future__ import annotations

import dataclasses
import io
import json
import math

import pytest
import torch
from rich.console import Console

from skreg.evaluation import (
    Evaluation,
    Proportion,
    as_dict,
    build_tables,
    evaluate_model,
    find_warnings,
    list_warnings,
    print_report,
    run_attack,
    to_markdown,
)

GRADIENT_ATTACKS = ("fgsm", "pgd", "deepfool_l2", "deepfool_linf")  # quick, and nothing in them is random


@pytest.fixture
def evaluation(make_linear, grey_images) -> Evaluation:
    """Of a linear model that errs on 2 of 12 images."""
    model = make_linear(2)
    with torch.no_grad():
        labels = model(grey_images).argmax(dim=1)
    labels[:2] = 1 - labels[:2]
    return evaluate_model(
        model, grey_images, labels, eps=0.02, name="V", data="toys", attacks=GRADIENT_ATTACKS, batch_size=5
    )


def test_numbers_of_a_linear_model(evaluation, make_linear, grey_images):
    model = make_linear(2)
    logits = model(grey_images).detach()
    labels = logits.argmax(dim=1)
    weight = model[0].weight.detach().flatten(1)
    distance = (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).abs().sum()
    assert evaluation.clean == Proportion(10, 12)
    further = int((distance[2:] > 0.02).sum())
    assert evaluation.fgsm_at_eps == evaluation.pgd_at_eps == Proportion(further, 12)
    assert evaluation.pgd_at_one == Proportion(0, 12)
    assert evaluation.zero_gradients == Proportion(0, 12)
    assert evaluation.logit_margin == pytest.approx(float((logits[:, 0] - logits[:, 1]).abs().mean()))
    assert [each.attack for each in evaluation.attacks] == list(GRADIENT_ATTACKS)
    for summary in evaluation.attacks:
        assert (summary.searches, summary.failed) == (10, 0)
        assert summary.accuracy == Proportion(0, 12)
        result = run_attack(model, grey_images[2:], labels[2:], summary.attack)
        assert summary.median_l2 == float(result.l2.sort().values[4])
        assert summary.median_linf == float(result.linf.sort().values[4])
    (layer,) = evaluation.layers
    assert layer.name == "0.weight"
    assert layer.norm == pytest.approx(float(weight.norm()))
    k = model[0].weight.detach()[:, 0]
    rough = (k[:, 1:] - k[:, :-1]).square().sum() + (k[:, :, 1:] - k[:, :, :-1]).square().sum()
    assert layer.roughness == pytest.approx(float(rough / k.square().sum()))


def test_bound_decides_what_counts_but_not_what_failed(make_linear, grey_images):
    model = make_linear(2)
    labels = model(grey_images).detach().argmax(dim=1)
    free = run_attack(model, grey_images, labels, "fgsm")
    bound = float(free.linf.median())
    found = evaluate_model(model, grey_images, labels, eps=0.1, attacks=["fgsm"], bound=bound)
    (summary,) = found.attacks
    assert summary.accuracy.count == int((free.linf > bound + 1e-6).sum())
    assert 0 < summary.accuracy.count < 12
    assert summary.failed == 0


def test_failed_searches_and_zero_gradients_are_told(constant_model, grey_images):
    labels = torch.zeros(12, dtype=torch.int64)
    labels[0] = 1
    found = evaluate_model(constant_model, grey_images.float(), labels, eps=0.1)
    assert found.zero_gradients == Proportion(12, 12)
    for summary in found.attacks:
        assert (summary.searches, summary.failed) == (11, 11)
        assert summary.accuracy == Proportion(11, 12)
        assert summary.median_l2 == math.inf
    warnings = " / ".join(find_warnings(found))
    assert "11 of 11 searches of pgd found no adversarial at any distance" in warnings
    assert "gradient is exactly zero at 12 of 12 images" in warnings
    assert "PGD at eps 1 leaves 11 images right" in warnings
    assert as_dict(found)["attacks"][0]["median_l2"] is None


def test_foolbox3_runs_fgsm_and_pgd_at_eps(make_linear, grey_images):
    model = make_linear(2)
    labels = model(grey_images).detach().argmax(dim=1)
    found = evaluate_model(model, grey_images, labels, eps=0.02, attacks=["fgsm"], preset="foolbox3")
    assert found.attacks[0].accuracy == found.fgsm_at_eps
    assert found.attacks[0].failed == found.fgsm_at_eps.count > 0
    assert not find_warnings(found)  # at a fixed radius an image left right is no failed search


def test_progress_names_every_step(make_linear, grey_images):
    steps: list[str] = []
    labels = torch.zeros(12, dtype=torch.int64)
    evaluate_model(make_linear(2), grey_images, labels, eps=0.02, attacks=["deepfool_l2"], progress=steps.append)
    assert steps == ["clean", "deepfool_l2", "eps 0.02"]


def test_errors(make_linear, nan_model, grey_images):
    labels = torch.zeros(12, dtype=torch.int64)
    with pytest.raises(ValueError, match="attack must be one of"):
        evaluate_model(make_linear(2), grey_images, labels, eps=0.1, attacks=["c&w"])
    with pytest.raises(ValueError, match="number of images must be at least 1"):
        evaluate_model(make_linear(2), grey_images[:0], labels[:0], eps=0.1)
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        evaluate_model(nan_model, grey_images.float(), labels, eps=0.1)


def changed(evaluation: Evaluation, **changes: object) -> Evaluation:
    return dataclasses.replace(evaluation, **changes)


def test_all_is_well_with_a_linear_model(evaluation):
    assert find_warnings(evaluation) == []


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"pgd_at_eps": Proportion(9, 12), "fgsm_at_eps": Proportion(8, 12)}, "PGD at eps 0.02 leaves 9"),
        ({"pgd_at_one": Proportion(3, 12)}, "PGD at eps 1 leaves 3 images right"),
        ({"zero_gradients": Proportion(1, 12)}, "exactly zero at 1 of 12 images"),
    ],
)
def test_each_sign_is_a_warning_of_its_own(evaluation, changes, warning):
    (found,) = find_warnings(changed(evaluation, **changes))
    assert warning in found


def test_search_of_pgd_weaker_than_fgsm_is_a_warning(evaluation):
    attacks = tuple(
        dataclasses.replace(each, accuracy=Proportion(5, 12)) if each.attack == "pgd" else each
        for each in evaluation.attacks
    )
    (found,) = find_warnings(changed(evaluation, attacks=attacks))
    assert "paper's PGD search leaves 5 images right, the weaker FGSM only 0" in found
    assert not find_warnings(changed(evaluation, attacks=attacks, preset="foolbox3"))


def test_tables(evaluation):
    other = changed(evaluation, name="VR", clean=Proportion(12, 12))
    accuracy, searches, gradients, kernels = build_tables([evaluation, other])
    assert accuracy.title == "Accuracy, toys"
    assert accuracy.columns == (
        "model",
        "images",
        "clean",
        "fgsm",
        "pgd",
        "deepfool_l2",
        "deepfool_linf",
        "FGSM eps 0.02",
        "PGD eps 0.02",
    )
    assert [row[:3] for row in accuracy.rows] == [("V", "12", "83.3\n55–95"), ("VR", "12", "100.0\n76–100")]
    assert len(searches.rows) == 2 * len(GRADIENT_ATTACKS)
    assert searches.rows[0][:4] == ("V", "fgsm", "10", "0")
    assert [row[0] for row in gradients.rows] == ["V", "VR"]
    assert [row[:2] for row in kernels.rows] == [("V", "0.weight"), ("VR", "0.weight")]
    assert all(len(row) == len(table.columns) for table in build_tables([evaluation]) for row in table.rows)
    assert "at any distance" in accuracy.note
    assert "within linf 0.1" in build_tables([changed(evaluation, bound=0.1)])[0].note
    mixed = build_tables([evaluation, changed(evaluation, eps=0.3, bound=0.1)])[0]
    assert mixed.columns[-1] == "PGD training eps"
    assert "within the bound of its data set" in mixed.note


def test_table_errors(evaluation):
    with pytest.raises(ValueError, match="at least one evaluation"):
        build_tables([])
    with pytest.raises(ValueError, match="same attacks"):
        build_tables([evaluation, changed(evaluation, attacks=evaluation.attacks[:1])])


def test_markdown_is_made_of_tables(evaluation):
    text = to_markdown([changed(evaluation, name="a|b")])
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines[:3]}) == 1
    assert "| ab | 12 | 83.3<br>55–95 |" in lines[2]
    assert "All checks of the attacks passed." in text
    warned = changed(evaluation, pgd_at_one=Proportion(3, 12))
    assert "- V: PGD at eps 1 leaves 3" in to_markdown([warned])
    assert list_warnings([evaluation, warned])[0].startswith("V: PGD at eps 1")


def test_report_on_a_terminal(evaluation):
    console = Console(width=200, record=True, file=io.StringIO())
    print_report([evaluation, changed(evaluation, name="[red]", pgd_at_one=Proportion(3, 12))], console)
    text = console.export_text()
    for word in ("Accuracy, toys", "FGSM eps 0.02", "83.3", "55–95", "median linf", "high freq. energy"):
        assert word in text
    assert "warning: [red]: PGD at eps 1 leaves 3 images right" in text


def test_dictionary_is_json_and_complete(evaluation):
    record = as_dict(evaluation)
    assert json.loads(json.dumps(record, allow_nan=False)) == json.loads(json.dumps(record))
    assert {each.name for each in dataclasses.fields(evaluation)} <= record.keys()
    assert record["clean"] == {
        "count": 10,
        "total": 12,
        "value": 10 / 12,
        "interval": list(Proportion(10, 12).interval),
    }
    assert record["attacks"][1]["attack"] == "pgd"
    assert record["attacks"][1]["accuracy"]["count"] == 0
    assert record["layers"][0].keys() == {"name", "roughness", "high_frequency_share", "norm"}
    assert record["warnings"] == []
