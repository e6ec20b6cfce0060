"""docs/results/gradients.py on gradients that are known."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from skreg.training import TrainConfig, train

pytest.importorskip("matplotlib")
FILE = Path(__file__).resolve().parents[2] / "docs" / "results" / "gradients.py"


@pytest.fixture
def gradients(monkeypatch):
    monkeypatch.syspath_prepend(str(FILE.parent))
    specification = importlib.util.spec_from_file_location("gradients", FILE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    sys.modules.pop("study", None)


def test_gradients_of_a_linear_net_are_its_templates(gradients):
    """Of two classes: p1 * (w1 - w0) where the label is 0, whatever the image is, and the margin may be huge."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 3, 2))
    with torch.no_grad():
        net[1].weight.mul_(200)
    images, labels = torch.rand(7, 2, 3, 3), torch.zeros(7, dtype=torch.int64)
    found = gradients.image_gradients(net, images, labels)
    probability = net(images.double()).softmax(1)[:, 1]
    template = (net[1].weight[1] - net[1].weight[0]).view(2, 3, 3)
    torch.testing.assert_close(found, probability[:, None, None, None] * template)


def test_smoothness_of_known_gradients(gradients):
    row = torch.arange(28.0, dtype=torch.float64)
    checkerboard = (-1.0) ** (row[:, None] + row)
    images = torch.stack([checkerboard, torch.ones(28, 28, dtype=torch.float64), torch.zeros(28, 28)])
    roughness, high = gradients.smoothness(images[:, None] * 1e-30)
    pairs = 2 * 28 * 27
    torch.testing.assert_close(roughness, torch.tensor([4 * pairs / 28**2, 0.0], dtype=torch.float64))
    assert high[0] > 0.99
    assert high[1] < 0.05
    both = torch.stack([checkerboard, torch.ones(28, 28)])[None]
    assert gradients.smoothness(both)[0].item() == pytest.approx(4 * pairs / 28**2 / 2)


def test_white_noise_is_as_it_says(gradients):
    torch.manual_seed(0)
    roughness, high = gradients.smoothness(torch.randn(400, 1, 28, 28, dtype=torch.float64))
    for samples, expected in ((roughness, 3.86), (high, 0.75)):
        mean, interval = gradients.mean_and_interval(samples)
        assert mean == pytest.approx(expected, abs=2 * interval + 0.005)
        assert 0 < interval < 0.01 * mean


def test_a_row_for_each_run(gradients, tmp_path):
    config = TrainConfig(data="four-shapes", variant="V", limit=40, epochs=1, validation_attack_steps=1, device="cpu")
    train(config, tmp_path / "V")
    gradients.main([str(tmp_path / "out.csv"), str(tmp_path / "V"), "--limit", "12"])
    (row,) = csv.DictReader((tmp_path / "out.csv").open())
    assert (row["run"], row["images"], row["zero"]) == (str(tmp_path / "V"), "12", "0")
    assert 0 < float(row["roughness"]) < 8
    assert 0 < float(row["high"]) < 1
