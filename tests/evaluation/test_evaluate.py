from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from skreg.evaluation import (
    ATTACKS_AT_EPS,
    Evaluation,
    Proportion,
    as_dict,
    build_tables,
    evaluate_model,
    find_warnings,
    run_attack,
    store,
)
from skreg.training import RunError

from .conftest import GRADIENT_ATTACKS


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
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(TypeError, match=rf"float32 or float64 where distances are measured, found {dtype}"):
            evaluate_model(make_linear(2).to(dtype), grey_images.to(dtype), labels, eps=0.1)
        with pytest.raises(TypeError, match=rf"float32 or float64 where distances are measured, found {dtype}"):
            run_attack(make_linear(2).to(dtype), grey_images.to(dtype), labels, "fgsm", preset="at_eps", eps=0.1)


class WithoutGradient(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, images):
        return self.model(images)


def test_logits_without_gradient(make_linear, grey_images):
    model = WithoutGradient(make_linear(2))
    labels = model(grey_images).argmax(dim=1)
    with pytest.raises(ValueError, match="logits carry no gradient with respect to the images"):
        evaluate_model(model, grey_images, labels, eps=0.1, attacks=["fgsm"])
    for attack in ("fgsm", "pgd", "deepfool_l2", "cw", "adef"):
        with pytest.raises(ValueError, match="logits carry no gradient with respect to the images"):
            run_attack(model, grey_images, labels, attack)
    assert run_attack(model, grey_images, labels, "salt_pepper").success.any()  # it needs none


def test_foolbox_is_missed_before_any_work(make_linear, grey_images, monkeypatch):
    def require(name, extra):
        raise ModuleNotFoundError(f"{name} {extra}")

    monkeypatch.setattr("skreg.evaluation.planned.require", require)
    options = {"eps": 0.1, "preset": "foolbox3"}
    labels = torch.zeros(12, dtype=torch.int64)
    with pytest.raises(ModuleNotFoundError, match="foolbox lab"):
        evaluate_model(make_linear(2), grey_images, labels, attacks=["deepfool_linf", "adef"], **options)
    evaluate_model(make_linear(2), grey_images, labels, attacks=["deepfool_linf"], **options)  # it is done here


def changed(evaluation: Evaluation, **changes: object) -> Evaluation:
    return dataclasses.replace(evaluation, **changes)


def test_all_is_well_with_a_linear_model(evaluation):
    assert find_warnings(evaluation) == []


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"pgd_ce_at_eps": Proportion(9, 12), "fgsm_at_eps": Proportion(8, 12)},
            "PGD (cross-entropy) at eps 0.02 leaves 9",
        ),
        (
            {"pgd_margin_at_eps": Proportion(9, 12), "fgsm_at_eps": Proportion(8, 12)},
            "PGD (margin) at eps 0.02 leaves 9",
        ),
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
    assert "PGD of preset paper leaves 5 images right, the weaker FGSM only 0" in found
    (found,) = find_warnings(changed(evaluation, attacks=attacks, preset="foolbox3"))
    assert "PGD of preset foolbox3 leaves 5 images right" in found


def test_failed_searches_tell_of_what_the_attack_does(evaluation):
    failing = ("pgd", "adef", "salt_pepper")
    attacks = tuple(dataclasses.replace(evaluation.attacks[0], attack=name, failed=2) for name in failing)
    (found,) = find_warnings(changed(evaluation, attacks=attacks))
    assert "pgd 2, adef 2, salt_pepper 2" in found
    assert found.endswith(
        "(pgd: a gradient without use; adef: a stop on the boundary, or a gradient without use; "
        "salt_pepper: a model that takes noise for their class, or too little of it)"
    )
    (found,) = find_warnings(changed(evaluation, attacks=attacks[2:]))
    assert "gradient" not in found


def test_noise_that_beats_gradients_is_a_warning(evaluation):
    def searches(count, noise):
        summary = dataclasses.replace(evaluation.attacks[0], accuracy=Proportion(count, 12))
        black_box = dataclasses.replace(summary, attack="salt_pepper", accuracy=Proportion(noise, 12))
        return changed(evaluation, attacks=(summary, black_box))

    assert find_warnings(searches(3, 3)) == []
    (found,) = find_warnings(searches(3, 2))
    assert "salt and pepper, which knows no gradient, leaves 2 images right" in found


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


def test_conflicts_are_found_before_the_first_attack(make_linear, grey_images, tmp_path, monkeypatch):
    model = make_linear(2)
    labels = model(grey_images).argmax(dim=1)
    evaluate_model(model, grey_images, labels, eps=0.02, attacks=["fgsm"], folder=tmp_path)
    (tmp_path / "eps1-pgd_ce.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(store, "run_attack", None)  # nothing may be attacked
    options = {"eps": 0.02, "folder": tmp_path}
    with pytest.raises(RunError, match=r"eps1-pgd_ce\.safetensors: damaged .*; move it away, and it is made again$"):
        evaluate_model(model, grey_images, labels, attacks=["deepfool_l2"], **options)
    with pytest.raises(RunError, match=r"eps0\.02-fgsm\.safetensors holds results of other data.*\. 4 more files"):
        evaluate_model(model, grey_images.flip(0), labels.flip(0), attacks=["deepfool_l2"], **options)
    assert not (tmp_path / "paper-deepfool_l2.safetensors").exists()
