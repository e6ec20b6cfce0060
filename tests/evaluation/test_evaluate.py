from __future__ import annotations

import dataclasses
import io
import json
import math

import pytest
import torch
from rich.console import Console

from skreg.evaluation import (
    ATTACKS_AT_EPS,
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
    assert evaluation.pgd_ce_at_eps == evaluation.pgd_margin_at_eps == evaluation.pgd_at_eps
    assert evaluation.worst_case_at_eps == evaluation.pgd_at_eps
    assert evaluation.random_search_at_eps.count >= further
    assert evaluation.random_search_alone == Proportion(0, 12)
    assert evaluation.autoattack_at_eps is None
    assert evaluation.classes == 2
    assert evaluation.pgd_at_one == Proportion(0, 12)
    assert evaluation.zero_gradients == Proportion(0, 12)
    assert evaluation.logit_margin == pytest.approx(float((logits[:, 0] - logits[:, 1]).abs().mean()))
    assert evaluation.logit_scale == pytest.approx(evaluation.logit_margin / 2)
    assert [each.attack for each in evaluation.attacks] == list(GRADIENT_ATTACKS)
    for summary in evaluation.attacks:
        assert (summary.searches, summary.failed) == (10, 0)
        assert summary.accuracy == Proportion(0, 12)
        result = run_attack(model, grey_images[2:], labels[2:], summary.attack)
        assert summary.median_l0 == float(result.l0.sort().values[4])
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
    assert "searches that found no adversarial at any distance, of 11 each: fgsm 11, pgd 11, deepfool_l2 11" in warnings
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


def test_progress_names_every_step_and_counts_images(make_linear, grey_images, tmp_path):
    steps = []
    model = make_linear(2)
    labels = model(grey_images).argmax(dim=1)
    options = {"eps": 0.02, "attacks": ["deepfool_l2"], "progress": steps.append, "batch_size": 5, "name": "V"}
    evaluate_model(model, grey_images, labels, folder=tmp_path, **options)
    assert list(dict.fromkeys(each.attack for each in steps)) == [
        "deepfool_l2",
        *(f"{name} at eps 0.02" for name in ("fgsm", "pgd_ce", "pgd_margin", "random_search")),
        "pgd_ce at eps 1",
    ]
    assert [each.done for each in steps[:5]] == [0, 0, 5, 10, 12]
    shares = [each.share for each in steps]
    assert shares == sorted(shares)
    assert shares[0] == 0 < shares[-1] <= 1
    assert str(steps[2]) == "V: deepfool_l2, 5 of 12 images"
    steps.clear()
    evaluate_model(model, grey_images, labels, folder=tmp_path, **options)
    assert [each.kept for each in steps[1::2]] == [12] * 6  # nothing is attacked again


def test_errors(make_linear, nan_model, grey_images):
    labels = torch.zeros(12, dtype=torch.int64)
    with pytest.raises(ValueError, match="attack must be one of"):
        evaluate_model(make_linear(2), grey_images, labels, eps=0.1, attacks=["c&w"])
    with pytest.raises(ValueError, match=r"eps must lie in \(0, 1\], the range of the images, found 8"):
        evaluate_model(make_linear(2), grey_images, labels, eps=8)
    with pytest.raises(
        TypeError, match=r"images must be floating point, found torch.uint8; divide uint8 pixels by 255"
    ):
        evaluate_model(make_linear(2), (255 * grey_images).byte(), labels, eps=0.1)
    with pytest.raises(ValueError, match=r"images must lie within bounds \(0.0, 1.0\), found values from"):
        evaluate_model(make_linear(2), 2 * grey_images, labels, eps=0.1)
    with pytest.raises(ValueError, match=r"K >= 2 classes, found \(12, 1\)"):
        evaluate_model(make_linear(1), grey_images, labels, eps=0.1)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\) for a model with 2 logits"):
        evaluate_model(make_linear(2), grey_images, labels + 2, eps=0.1)
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
        ({"random_search_alone": Proportion(2, 12)}, "black-box search fools 2 images within eps 0.02 that neither"),
        ({"autoattack_at_eps": Proportion(11, 12)}, "AutoAttack leaves 11 images right at eps 0.02, plain PGD only"),
        ({"logit_margin": 20.0}, "two highest logits are 20 apart"),
        ({"clean": Proportion(6, 12)}, "gets 6 of 12 images right, no better than a guess among 2 classes"),
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


def test_noise_that_beats_gradients_is_a_warning(evaluation):
    def searches(count, noise):
        summary = dataclasses.replace(evaluation.attacks[0], accuracy=Proportion(count, 12))
        black_box = dataclasses.replace(summary, attack="salt_pepper", accuracy=Proportion(noise, 12))
        return changed(evaluation, attacks=(summary, black_box))

    assert find_warnings(searches(3, 3)) == []
    (found,) = find_warnings(searches(3, 2))
    assert "salt and pepper, which knows no gradient, leaves 2 images right" in found


def test_table_1_is_the_papers(evaluation):
    other = changed(evaluation, name="VR", clean=Proportion(12, 12))
    table = build_tables([evaluation, other])[0]
    assert table.title == "Table 1: accuracy under attack, toys, at any distance"
    assert table.columns == (
        "model", "images", "clean", "FGSM", "PGD", "DF l2", "DF linf", "failed searches"
    )  # fmt: skip
    assert [row[:3] for row in table.rows] == [("V", "12", "83.3\n55–95"), ("VR", "12", "100.0\n76–100")]
    assert [row[-1] for row in table.rows] == ["0 of 40", "0 of 40"]
    assert "within linf 0.1" in build_tables([changed(evaluation, bound=0.1)])[0].title


def test_the_papers_numbers_stand_beside_ours(evaluation):
    def tables(**changes):
        return [t for t in build_tables([changed(evaluation, **changes)]) if t.title.startswith("Beside")]

    assert tables() == tables(data="fashion-mnist", name="mine") == tables(data="mnist", name="VH") == []
    assert tables(data="mnist", name="VR", preset="foolbox3") == []
    (table,) = tables(data="fashion-mnist", name="vr")
    assert table.columns == ("model", "clean", "FGSM", "PGD", "DF l2", "DF linf")
    cells = [cell.split("\n") for cell in table.rows[0][1:]]
    assert [below for _, below in cells] == ["paper 88.5", "paper 0.9", "paper 7.5", "paper 75.8", "paper 63.5"]
    assert [above for above, _ in cells] == [
        f"{100 * share.value:.1f}" for share in (evaluation.clean, *(s.accuracy for s in evaluation.attacks))
    ]


def test_the_best_of_a_column_is_marked_unless_a_guess_is_as_good(evaluation):
    def model(name, clean, fgsm):
        (summary,) = evaluation.attacks[:1]
        attacks = (dataclasses.replace(summary, accuracy=Proportion(fgsm, 12)),)
        return changed(evaluation, name=name, clean=Proportion(clean, 12), attacks=attacks)

    models = [model("V", 10, 5), model("VR", 10, 7), model("A", 9, 7)]
    assert build_tables(models)[0].best == {(0, 2), (1, 2), (1, 3), (2, 3)}
    assert build_tables([model("V", 10, 6), model("VR", 9, 5)])[0].best == {(0, 2)}  # 6 of 12 is a guess
    assert build_tables(models[:1])[0].best == frozenset()
    assert build_tables([models[0], models[0]])[0].best == frozenset()  # equal
    text = to_markdown(models)
    assert "| VR | 12 | **83.3**<br>55–95 | **58.3**<br>" in text


def test_table_within_eps(evaluation):
    _, table, *_ = build_tables([evaluation])
    assert table.title == "Accuracy within linf 0.02, toys"
    assert table.columns[3:] == ("FGSM", "PGD cross-entropy", "PGD margin", "random search", "worst case")
    assert "AutoAttack was not run: add --attacks autoattack" in table.note
    mixed = [evaluation, changed(evaluation, autoattack_at_eps=Proportion(1, 12))]
    _, table, *_ = build_tables(mixed)
    assert table.columns[-2:] == ("AutoAttack", "worst case")
    assert [row[-2] for row in table.rows] == ["–", "8.3\n1–35"]


def test_other_tables(evaluation):
    other = changed(evaluation, name="VR")
    *_, searches, landscape, kernels = build_tables([evaluation, other])
    assert len(searches.rows) == 2 * len(GRADIENT_ATTACKS)
    assert searches.rows[0][:5] == ("V", "FGSM", "linf", "10", "0")
    assert searches.columns[5:] == ("median l0", "median l2", "median linf")
    assert [row[0] for row in landscape.rows] == ["V", "VR"]
    assert [row[:2] for row in kernels.rows] == [("V", "0.weight"), ("VR", "0.weight")]
    assert all(len(row) == len(table.columns) for table in build_tables([evaluation]) for row in table.rows)


def test_data_sets_have_tables_of_their_own(evaluation):
    other = changed(evaluation, data="others", eps=0.3, bound=0.1)
    assert [table.title for table in build_tables([evaluation, other])[:4]] == [
        "Table 1: accuracy under attack, toys, at any distance",
        "Accuracy within linf 0.02, toys",
        "Table 1: accuracy under attack, others, within linf 0.1",
        "Accuracy within linf 0.3, others",
    ]


def test_without_searches_there_is_no_table_1(evaluation):
    tables = build_tables([changed(evaluation, attacks=())])
    assert [table.title.split(",")[0] for table in tables] == [
        "Accuracy within linf 0.02", "Can the attacks be believed?", "Kernels"
    ]  # fmt: skip


def test_a_table_says_what_it_fails(evaluation):
    summary = dataclasses.replace(evaluation.attacks[0], failed=3)
    bad = changed(evaluation, attacks=(summary,), pgd_at_one=Proportion(3, 12), zero_gradients=Proportion(1, 12))
    table_1, at_eps, _, landscape, _ = build_tables([bad])
    assert "V: searches that found no adversarial at any distance, of 10 each: fgsm 3." in table_1.warnings[0]
    assert at_eps.warnings == (list_warnings([bad])[-1],)
    assert "exactly zero at 1 of 12" in landscape.warnings[0]
    assert sorted(w for table in build_tables([bad]) for w in table.warnings) == sorted(list_warnings([bad]))
    text = to_markdown([bad])
    assert text.index("- warning: V: searches that found") < text.index("### Accuracy within")
    assert "All checks" not in text


@pytest.mark.usefixtures("short_cw")
def test_no_image_classified_rightly(make_linear, grey_images):
    model = make_linear(2)
    labels = 1 - model(grey_images).argmax(dim=1)
    found = evaluate_model(model, grey_images, labels, eps=0.1)
    assert found.clean == found.worst_case_at_eps == found.pgd_at_one == Proportion(0, 12)
    for summary in found.attacks:
        assert (summary.searches, summary.failed) == (0, 0)
        assert math.isnan(summary.median_linf)
    assert "gets 0 of 12 images right, no better than a guess" in find_warnings(found)[0]
    assert "–" in build_tables([found])[2].rows[0]


def test_images_of_one_class(make_linear, grey_images):
    model = make_linear(2)
    chosen = grey_images[model(grey_images).argmax(dim=1) == 1]
    found = evaluate_model(model, chosen, torch.ones(len(chosen), dtype=torch.int64), eps=0.5, attacks=["fgsm"])
    assert found.clean.value == 1
    assert found.pgd_at_eps.count == 0


def test_worst_case_counts_searches_within_eps(make_linear, grey_images, monkeypatch):
    model = make_linear(2)
    labels = model(grey_images).argmax(dim=1)
    distance = run_attack(model, grey_images, labels, "pgd").linf
    eps = float(distance.median())
    for name in ("fgsm", "pgd_ce", "pgd_margin", "random_search"):
        monkeypatch.setitem(ATTACKS_AT_EPS, name, lambda forward, images, labels, eps: images)  # finds nothing
    found = evaluate_model(model, grey_images, labels, eps=eps, attacks=["pgd"])
    assert found.pgd_at_eps.count == 12
    assert found.worst_case_at_eps.count == int((distance > eps + 1e-6).sum())


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
    assert "**" not in text  # one model alone is not the best
    assert "All checks of the attacks passed." in text
    warned = changed(evaluation, pgd_at_one=Proportion(3, 12))
    assert "- warning: V: PGD at eps 1 leaves 3" in to_markdown([warned])
    assert list_warnings([evaluation, warned])[0].startswith("V: PGD at eps 1")


def test_report_on_a_terminal(evaluation):
    console = Console(width=200, record=True, file=io.StringIO())
    other = changed(evaluation, name="[red]", clean=Proportion(12, 12), pgd_at_one=Proportion(3, 12))
    print_report([evaluation, other], console)
    text = console.export_text()
    for word in ("Table 1", "Accuracy within linf 0.02", "83.3", "*100.0", "55–95", "median linf", "high freq. energy"):
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
