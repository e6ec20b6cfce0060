from __future__ import annotations

import pytest
import torch

from skreg.figures import FIGURES, describe_estimate, estimate_seconds
from skreg.figures import estimate as estimate_module
from skreg.figures.lineup import line_up
from skreg.figures.targeted import QUICK, targeted_attack


def test_every_model_costs_its_passes(make_run, monkeypatch):
    monkeypatch.setattr(estimate_module, "_seconds_a_pass", lambda model, lineup: 0.001)
    runs = [make_run("V"), make_run("VR")]
    seconds = estimate_seconds(runs, only=["kernels", "fourier", "activation-paper"])
    assert seconds == {"kernels": 0.0, "fourier": pytest.approx(2 * 0.5 * 300 * 392 / 1000), "activation-paper": 80.0}
    assert estimate_seconds(runs, only=["fourier"], quick=True)["fourier"] == pytest.approx(seconds["fourier"] / 6)
    assert set(estimate_seconds(runs, only=["all"])) == set(FIGURES) - {"curves"}  # nothing was evaluated
    with pytest.raises(ValueError, match="only: expected names among"):
        estimate_seconds(runs, only=["spectre"])


def test_a_pass_is_timed(make_run):
    lineup = line_up([make_run("V")], device="cpu")
    (model,) = lineup.models.values()
    assert 0 < estimate_module._seconds_a_pass(model, lineup) < 1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_passes_of_pgd_are_about_those_that_it_takes(make_run):
    lineup = line_up([make_run("V")], device="cpu", quick=True)
    (model,) = lineup.models.values()
    counted = []
    model.register_forward_hook(lambda module, inputs, output: counted.append(len(inputs[0])))
    images, labels = lineup.test_images(4)
    targeted_attack(model, images, labels, (labels + 1) % 4, "pgd", QUICK)
    expected = estimate_module.PASSES["targeted-pgd"](lineup) / 12  # of 4 x 3 pairs
    assert 0.4 < sum(counted) / 4 / expected < 2.5
    assert torch.is_grad_enabled()


def test_words():
    assert describe_estimate({"kernels": 0.0}) == "about 0 s to compute"
    assert describe_estimate({"a": 60.2, "b": 7200.0, "c": 300.0, "d": 1.0}) == (
        "about 2.1 h to compute: mostly b 2.0 h, c 5 min, a 61 s"
    )
