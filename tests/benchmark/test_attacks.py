from __future__ import annotations

import csv
import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from skreg import benchmark, cli
from skreg.benchmark import attacks as module
from skreg.benchmark import describe_machine, run_attacks, write_csv
from skreg.evaluation import search

SMALL = {"threads": 1, "data": "four-shapes", "training_images": 60, "rounds": 2, "seconds": 0.1}


@pytest.fixture
def short(monkeypatch):
    """A small net that is not trained, and shorter searches with PGD, of both sides."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(1, 4, 7, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))
    net[-1].bias.data += torch.tensor([0.3, 0.0, 0.0, 0.0])
    monkeypatch.setattr(module, "_trained", lambda *arguments: net)
    for where in (module, search):
        monkeypatch.setattr(where, "PGD_ITERATIONS", 5)
        monkeypatch.setattr(where, "PGD_SEARCH", 6)


@pytest.mark.usefixtures("short")
def test_a_small_case_is_measured_and_agrees_with_foolbox(tmp_path):
    rows = run_attacks(["deepfool_l2", "pgd"], images=2, **SMALL)
    assert [(row.attack, row.contender) for row in rows] == [
        ("deepfool_l2", "Foolbox 3"), ("deepfool_l2", "ours, foolbox3"), ("deepfool_l2", "ours, paper"),
        ("pgd", "Foolbox 3"), ("pgd", "ours, paper"),
    ]  # fmt: skip
    assert all(row.agreement >= 0.9 and row.median_ms > 0 and row.faster > 0 for row in rows)
    assert all(row.images == 2 and row.samples >= 2 for row in rows)
    write_csv(tmp_path / "attacks.csv", rows, describe_machine())
    assert len(list(csv.DictReader((tmp_path / "attacks.csv").open()))) == 5


@pytest.mark.usefixtures("short")
def test_another_distance_than_foolboxs_stops_the_benchmark(monkeypatch):
    ours = module._our_search
    monkeypatch.setattr(module, "_our_search", lambda *arguments: lambda: 2 * ours(*arguments)())
    with pytest.raises(AssertionError, match="deepfool_linf, ours, foolbox3: expected Foolbox's success and distance"):
        run_attacks(["deepfool_linf"], images=2, **SMALL)


def test_agreement_counts_failures_as_distances():
    inf = torch.inf
    expected, found = torch.tensor([0.1, 0.1, inf, inf, 0.1]), torch.tensor([0.1, 0.2, inf, 0.1, inf])
    assert module._agreement(expected, found, 0.01, 0) == pytest.approx(2 / 5)


class Threshold(nn.Module):
    """Class 1 above a mean of 0.55: the smallest eps is known."""

    def forward(self, images):
        mean = images.flatten(1).mean(dim=1)
        return torch.stack([0 * mean, 10 * (mean - 0.55)], dim=1)


@pytest.mark.parametrize(("attack", "slack"), [("fgsm", 1e-3), ("pgd", 1e-5)])
def test_the_rivals_find_a_known_distance(attack, slack):
    pytest.importorskip("foolbox")
    images = torch.full((2, 1, 4, 4), 0.5)
    found = module.foolbox_search(Threshold(), images, torch.zeros(2, dtype=torch.int64), attack)()
    assert found.tolist() == pytest.approx([0.05, 0.05], abs=slack)


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="attack must be one of 'deepfool_l2'"):
        run_attacks(["cw"], threads=1)
    with pytest.raises(ValueError, match="images must be at least 1"):
        run_attacks(threads=1, images=0)


@pytest.mark.usefixtures("short")
def test_too_few_right_images_are_an_error():
    with pytest.raises(ValueError, match="images: expected 200 that the net classifies rightly, found"):
        run_attacks(["fgsm"], images=200, **SMALL)


def test_the_net_is_trained():
    assert module._trained("four-shapes", 20, seed=0)(torch.zeros(1, 1, 28, 28)).shape == (1, 4)


def test_command(monkeypatch):
    monkeypatch.setattr(benchmark.attacks, "IMAGES", {"deepfool_l2": 2})
    seen = {}

    def fake(attacks, **options):
        seen.update(options, attacks=attacks)
        return [module.AttackMeasurement("d", "fgsm", "Foolbox 3", 2, 1, 3, 1.0, 1.0, 0.1, 1.0, 2.0, 3.0, 1.0)]

    monkeypatch.setattr(cli.bench, "run_attacks", fake)
    result = CliRunner().invoke(cli.app, ["bench", "attacks", "--attacks", "fgsm,pgd", "--threads", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["measurements"][0]["median_ms"] == 2.0
    assert seen["attacks"] == ["fgsm", "pgd"]
    result = CliRunner().invoke(cli.app, ["bench", "attacks"], env={"COLUMNS": "120"})
    assert "fgsm, 2 images" in result.stdout
    result = CliRunner().invoke(cli.app, ["bench", "attacks", "step"])
    assert result.exit_code == 2
