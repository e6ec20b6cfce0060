from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from skreg.benchmark import run_steps
from skreg.benchmark import steps as module
from skreg.cli import app

QUICK = {"threads": 1, "batch_size": 6, "rounds": 3, "seconds": 1.0}


def first_steps(change=None):
    """Take and check the first steps of all contenders on a tiny net."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 5), nn.Flatten(), nn.Linear(8, 3))
    images, labels = torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    models = {name: copy.deepcopy(model) for name in module.CONTENDERS}
    inside = {name: [] for name in module.CONTENDERS}
    steps = {name: module.prepare_step(name, models[name], inside[name]) for name in models}
    if change is not None:
        change(steps)
    module.check_first_steps(model, models, steps, images, labels)
    return models, inside


def test_every_form_moves_the_weights_by_the_penalty_as_well():
    models, inside = first_steps()
    weights = {name: model[0].weight for name, model in models.items()}
    assert torch.equal(weights["plain"], weights["plain, again"])
    for name in ("hook", "hook, decoupled", "loss form", "naive"):
        assert not torch.equal(weights[name], weights["plain"])
        # The decoupled gradient is taken after the step: the same to second order. The penalty's moves are 1e-4.
        torch.testing.assert_close(weights[name], weights["hook"], rtol=0, atol=1e-6)
    assert {name: len(times) for name, times in inside.items() if times} == {"hook": 1, "hook, decoupled": 1}
    assert min(inside["hook"] + inside["hook, decoupled"]) > 0


@pytest.mark.parametrize("name", ["hook", "hook, decoupled", "loss form", "naive", "plain, again"])
def test_a_contender_that_does_something_else_stops_the_benchmark(name):
    def take_two_steps(steps):
        step = steps[name]
        steps[name] = lambda *batch: (step(*batch), step(*batch))

    with pytest.raises(AssertionError, match=rf"{name}: 0.weight after one step is off by"):
        first_steps(take_two_steps)


@pytest.mark.parametrize("name", ["hook", "loss form", "naive"])
def test_a_penalty_that_is_lost_stops_the_benchmark(name, monkeypatch):
    prepare = module.prepare_step
    plain = lambda _, *rest: prepare("plain", *rest)  # noqa: E731
    monkeypatch.setattr(module, "prepare_step", lambda n, *rest: (plain if n == name else prepare)(n, *rest))
    with pytest.raises(AssertionError, match=rf"{name}: 0.weight after one step"):
        first_steps()


def test_figures_fit_together():
    rows = {row.contender: row for row in run_steps(["two_conv"], **QUICK)}
    assert tuple(rows) == module.CONTENDERS
    for row in rows.values():
        assert (row.net, row.count, row.samples) == ("two_conv", 32 * 25 + 64 * 32 * 25, 3)
        assert (row.batch_size, row.small_batch_size) == (6, 4)
        assert row.lower_added_ms <= row.added_ms <= row.upper_added_ms
        assert row.lower_overhead <= row.overhead <= row.upper_overhead
        assert row.overhead == pytest.approx(1 + row.added_ms / row.plain_ms, rel=1e-3)
        assert (row.inside_ms is not None) == row.contender.startswith("hook")
    assert (rows["plain"].overhead, rows["plain"].added_ms) == (1, 0)
    hook = rows["hook"]
    assert hook.inside_overhead == pytest.approx(1 + hook.inside_ms / rows["plain"].plain_ms, rel=1e-3)


def test_differences_are_taken_within_a_round():
    """A machine that is ten times slower in one round changes no difference, and the batch that is long no time."""
    plain, own = [0.1, 1.0, 0.1], [0.11, 1.01, 0.11]
    row = module._row("two_conv", "naive", (128, 4, 1, 2), [9.0, 1.0, 2.0], own, plain, [])
    assert (row.lower_added_ms, row.added_ms, row.upper_added_ms) == (10, 10, 10)
    assert (row.plain_ms, row.small_plain_ms, row.overhead) == (2000, 100, 1.005)


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="net: expected one of two_conv, resnet18_cifar, resnet50; found 'vgg'"):
        run_steps(["vgg"], threads=1)
    with pytest.raises(ValueError, match="batch_size"):
        run_steps(threads=1, batch_size=0)


def test_command(tmp_path, monkeypatch):
    monkeypatch.setitem(module.NETS, "two_conv", module.Net("two_conv", (1, 4, 4), 2, 2, 1))
    path = tmp_path / "new" / "step.csv"
    options = ["--weights", "two_conv", "--threads", "1", "--rounds", "3", "--seconds", "1", "--csv", str(path)]
    result = CliRunner().invoke(app, ["bench", "step", *options])
    assert result.exit_code == 0, result.output
    assert "loss form" in result.output
    header, *lines = path.read_text().splitlines()
    assert header.startswith("net,contender,batch_size,")
    assert len(lines) == len(module.CONTENDERS)
    assert CliRunner().invoke(app, ["bench", "step", "penalty"]).exit_code == 2
