from __future__ import annotations

import pytest
import torch

from skreg.data import load
from skreg.figures.lineup import line_up
from skreg.training import RunError
from skreg.training.checkpoint import write_best


def test_the_papers_order_whatever_the_runs_came_in(make_run):
    order = ["V", "VR", "VH", "T", "TR", "TH", "A", "AR", "AH", "L", "LR", "LH"]
    lineup = line_up([make_run(variant) for variant in sorted(order, reverse=True)])
    assert list(lineup.runs) == order
    assert [run.config.variant for run in lineup.runs.values()] == order


def test_runs_of_one_variant_are_named_by_folder_and_then_by_path(make_run):
    first, second = make_run("VR", "one/seed0"), make_run("VR", "one/seed1")
    assert list(line_up([first, second]).runs) == ["seed0", "seed1"]
    third = make_run("V", "two/seed0")
    assert list(line_up([first, third]).runs) == ["V", "VR"]
    fourth = make_run("VR", "two/seed1")
    names = list(line_up([second, fourth]).runs)
    assert names == ["one/seed1", "two/seed1"]


def test_best_weights_and_test_images(make_run):
    lineup = line_up([make_run("VR"), make_run("V")], device="cpu")
    for name, run in lineup.runs.items():
        expected = run.load_model("best").state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in lineup.models[name].state_dict().items())
        assert not lineup.models[name].training
    images, labels = lineup.test_images(20)
    pixels, expected_labels = load("four-shapes", "test", limit=20)
    assert torch.equal(images, pixels.float() / 255)
    assert torch.equal(labels, expected_labels)


def test_errors(make_run):
    with pytest.raises(ValueError, match="runs: expected at least one, found none"):
        line_up([])
    run = make_run("V")
    with pytest.raises(ValueError, match=r"expected different ones, found twice: .*V"):
        line_up([run, run])
    other = make_run("VR", data="fashion-mnist")
    with pytest.raises(ValueError, match=r"expected one data set, found .*V \(four-shapes\), .*VR \(fashion-mnist\)"):
        line_up([run, other])


def test_a_run_without_weights(make_run):
    run = make_run("V")
    (run.path / "best.safetensors").unlink()
    with pytest.raises(RunError, match=r"best.safetensors is missing"):
        line_up([run]).models  # noqa: B018


def test_weights_that_are_not_finite(make_run):
    run = make_run("VH")
    weights = run.load_model().state_dict()
    weights["conv1.weight"][0, 0, 0, 0] = torch.inf
    write_best(run.path, weights, epoch=1, score=0.5)
    with pytest.raises(RunError, match=r"VH: the weights hold NaN or infinite values in conv1.weight"):
        line_up([run]).models  # noqa: B018
