from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from skreg.evaluation import run_attack
from skreg.figures import deceptive, deceptive_grid
from skreg.figures.deceptive import Deception, deceive, most_deceptive

CLASSES = ("even", "odd", "third")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3))


def made_up(confidence, found, images) -> Deception:
    count = len(images)
    prediction = torch.tensor([(i + 1) % 3 for i in range(count)])
    return Deception(images + 0.5, torch.tensor(found), prediction, torch.tensor(confidence))


def test_deceive_reports_what_the_model_makes_of_its_adversarial_images():
    model, images = net(), torch.rand(9, 1, 8, 8)
    labels = model(images).argmax(dim=1)
    labels[4] = (labels[4] + 1) % 3  # misclassified from the start
    result = deceive(model, images, labels, "fgsm")
    expected = run_attack(model, images, labels, "fgsm")
    assert torch.equal(result.adversarial, expected.adversarial)
    with torch.no_grad():
        confidence, prediction = model(result.adversarial).softmax(dim=1).max(dim=1)
    torch.testing.assert_close(result.confidence, confidence)
    assert torch.equal(result.prediction, prediction)
    assert not result.found[4]
    assert result.found.sum() > 4
    assert (result.prediction[result.found] != labels[result.found]).all()


def test_who_is_right_after_all_is_not_deceived(monkeypatch):
    """The search and a batch of another size may round a boundary to different sides."""
    model, images = net(), torch.rand(2, 1, 8, 8)
    labels = model(images).argmax(dim=1)
    claims = torch.tensor([True, True])
    monkeypatch.setattr(
        deceptive,
        "run_attack",
        lambda *_, **__: SimpleNamespace(adversarial=images, success=claims, linf=torch.tensor([0.1, 0.1])),
    )
    assert not deceive(model, images, labels, "adef").found.any()


def test_the_mean_over_models_chooses_and_who_was_not_deceived_counts_nothing():
    images, labels = torch.zeros(6, 1, 2, 2), torch.tensor([0, 0, 1, 1, 2, 2])
    one = made_up([0.9, 0.6, 0.5, 0.5, 0.4, 0.7], [True] * 6, images)
    two = made_up([0.9, 0.6, 0.5, 0.5, 0.4, 0.7], [False, True, True, True, True, False], images)
    chosen, confidence = most_deceptive([one, two], labels, 3)
    assert chosen.tolist() == [1, 2, 4]  # 0.6 beats 0.45; the first of equals; 0.4 beats 0.35
    assert confidence.tolist() == pytest.approx([0.6, 0.5, 0.4])
    assert most_deceptive([one], labels, 3)[0].tolist() == [0, 2, 5]


def test_nobody_deceived_is_still_shown():
    images, labels = torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 2])
    chosen, confidence = most_deceptive([made_up([0.9] * 3, [False] * 3, images)], labels, 3)
    assert chosen.tolist() == [0, 1, 2]
    assert not confidence.any()


def test_picture_shows_originals_adversarial_images_and_failures():
    images = torch.rand(6, 1, 4, 4) / 2
    deceptions = {
        "V": made_up([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], [True] * 6, images),
        "VR": made_up([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], [True, True, False, True, False, True], images),
    }
    deceptions["V"].prediction[4] = 1
    deceptions["VR"].prediction[2] = 1  # the search failed: still seen as what it is
    deceptions["VR"].prediction[4] = 0  # seen as something else from the start
    figure = deceptive_grid(images, torch.tensor([0, 2, 4]), deceptions, CLASSES)
    axes = np.array(figure.axes).reshape(3, 3)
    for row, index in enumerate((0, 2, 4)):
        shown = [np.asarray(each.images[0].get_array()) for each in axes[row]]
        np.testing.assert_array_equal(shown[0], images[index, 0])
        np.testing.assert_array_equal(shown[1], deceptions["V"].adversarial[index, 0])
    labels = [[each.get_xlabel().split() for each in row] for row in axes]
    assert labels == [
        [[], ["odd", "50%"], ["odd", "50%"]],
        [[], ["even", "70%"], ["failed"]],
        [[], ["odd", "90%"], ["wrong", "anyway"]],
    ]
    assert [[len(each.lines) for each in row] for row in axes] == [[0, 0, 0], [0, 0, 2], [0, 0, 2]]


def test_errors():
    images = torch.zeros(2, 1, 2, 2)
    with pytest.raises(ValueError, match="deceptions: expected at least one"):
        most_deceptive([], torch.zeros(2).long(), 1)
    with pytest.raises(ValueError, match="found none of class 1"):
        most_deceptive([made_up([0.5, 0.5], [True, True], images)], torch.zeros(2).long(), 2)
    with pytest.raises(ValueError, match="attack must be one of"):
        deceive(net(), torch.rand(1, 1, 8, 8), torch.zeros(1).long(), "magic")
