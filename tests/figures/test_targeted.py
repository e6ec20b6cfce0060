from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from skreg.figures import targeted_grid
from skreg.figures.targeted import TARGETED, Effort, TargetedResult, targeted_attack

COUNT = 3


def linear() -> nn.Sequential:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(1, COUNT, 8), nn.Flatten()).double()
    # The even grey image lies on all decision boundaries.
    model[0].bias.data.copy_(-0.5 * model[0].weight.detach().flatten(1).sum(1))
    return model


@pytest.fixture
def problem():
    """A linear model, images near grey with their classes, and the class after that as the target."""
    model = linear()
    images = 0.4 + 0.2 * torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    labels = model(images).argmax(dim=1)
    return model, images, labels, (labels + 1) % COUNT


@pytest.mark.parametrize("attack", TARGETED)
def test_success_and_norms_are_recomputed_from_the_images(problem, attack):
    model, images, labels, targets = problem
    result = targeted_attack(model, images, labels, targets, attack, Effort(steps=10, bisections=4, cw_steps=100))
    assert result.success.any()
    with torch.no_grad():
        assert torch.equal(result.success, model(result.adversarial).argmax(dim=1) == targets)
    assert ((result.adversarial >= 0) & (result.adversarial <= 1)).all()
    change = (result.adversarial - images).flatten(1)
    failed = ~result.success
    torch.testing.assert_close(result.l2, change.norm(dim=1).masked_fill(failed, torch.inf))
    torch.testing.assert_close(result.linf, change.abs().amax(dim=1).masked_fill(failed, torch.inf))
    assert torch.equal(result.adversarial[failed], images[failed])


def test_pgd_finds_the_smallest_eps_of_two_linear_classes(problem):
    model, images, _, _ = problem
    two = nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten()).double()
    two[0].weight.data.copy_(model[0].weight[:2].detach())
    two[0].bias.data.copy_(model[0].bias[:2].detach())
    with torch.no_grad():
        logits = two(images)
    labels = logits.argmax(dim=1)
    gap = (logits[:, 0] - logits[:, 1]).abs()
    exact = gap / (two[0].weight[0] - two[0].weight[1]).detach().abs().sum()
    result = targeted_attack(two, images, labels, 1 - labels, "pgd", Effort(steps=5, bisections=12))
    assert result.success.all()
    assert (result.linf >= exact * (1 - 1e-9)).all()
    torch.testing.assert_close(result.linf, exact, rtol=0, atol=1 / 16 / 2**12 * 1.1)


def test_more_bisections_come_closer(problem):
    model, images, labels, targets = problem
    coarse = targeted_attack(model, images, labels, targets, "pgd", Effort(steps=10, bisections=1))
    fine = targeted_attack(model, images, labels, targets, "pgd", Effort(steps=10, bisections=8))
    both = coarse.success & fine.success
    assert both.sum() > 6
    assert (fine.linf[both] <= coarse.linf[both] + 1e-12).all()
    assert fine.linf[both].mean() < coarse.linf[both].mean()


def test_the_target_that_the_model_sees_anyway_is_at_distance_0(problem):
    model, images, labels, _ = problem
    result = targeted_attack(model, images, (labels + 1) % COUNT, labels, "pgd")
    assert result.success.all()
    assert not result.l2.any()
    assert torch.equal(result.adversarial, images)


def test_a_class_that_cannot_be_reached_is_a_failure():
    model = linear()
    model[0].bias.data[2] = -1e6
    images = torch.full((2, 1, 8, 8), 0.5, dtype=torch.float64)
    for attack in TARGETED:
        effort = Effort(steps=2, bisections=2, cw_steps=5)
        result = targeted_attack(model, images, torch.zeros(2).long(), torch.full((2,), 2), attack, effort)
        assert not result.success.any()
        assert result.l2.isinf().all()
        assert torch.equal(result.adversarial, images)


def test_the_black_image_of_a_failed_search_is_no_find():
    class OnlyBlack(nn.Module):
        def forward(self, images):
            flat = 0.0 * images.flatten(1).sum(dim=1)
            return torch.stack([flat, flat - 1 + 2 * (images.flatten(1) == 0).all(dim=1)], dim=1)

    images = torch.full((2, 1, 8, 8), 0.5, dtype=torch.float64)
    result = targeted_attack(OnlyBlack(), images, torch.zeros(2).long(), torch.ones(2).long(), "cw", Effort(cw_steps=5))
    assert not result.success.any()
    assert torch.equal(result.adversarial, images)


def test_model_is_left_as_it_was(problem):
    model, images, labels, targets = problem
    model.train()
    targeted_attack(model, images, labels, targets, "fgsm")
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_rows_are_targets_and_columns_are_originals():
    images = torch.rand(COUNT, 1, 8, 8)
    success = torch.ones(9, dtype=torch.bool)
    success[1] = False  # row 0, column 1
    norms = torch.arange(9, dtype=torch.float64)
    result = TargetedResult(torch.rand(9, 1, 8, 8), success, norms, norms / 10)
    figure = targeted_grid(images, torch.tensor([0, 2, 2]), result, ["a", "b", "c"])
    axes = np.array(figure.axes).reshape(3, 3)
    for row in range(3):
        for column in range(3):
            index = row * 3 + column
            source = images[column] if row == column or index == 1 else result.adversarial[index]
            np.testing.assert_array_equal(np.asarray(axes[row, column].images[0].get_array()), source[0])
    labels = [[each.get_xlabel().split() for each in row] for row in axes]
    assert labels == [
        [["original"], ["failed"], ["l2", "2", "l∞", "0.2"]],
        [["l2", "3", "l∞", "0.3"], ["seen", "as", "c"], ["l2", "5", "l∞", "0.5"]],
        [["l2", "6", "l∞", "0.6"], ["l2", "7", "l∞", "0.7"], ["original"]],
    ]
    assert {"target class", "original class"} <= {text.get_text() for text in figure.texts}


def test_errors(problem):
    model, images, labels, targets = problem
    with pytest.raises(ValueError, match=r"attack must be one of 'pgd', 'adef', 'fgsm', 'cw', found 'deepfool_l2'"):
        targeted_attack(model, images, labels, targets, "deepfool_l2")
    with pytest.raises(ValueError, match=r"targets must lie in \[0, 3\)"):
        targeted_attack(model, images, labels, targets + 7, "pgd")
    with pytest.raises(ValueError, match="targets must have shape"):
        targeted_attack(model, images, labels, targets[:2], "pgd")
    with pytest.raises(ValueError, match="expected 2 images and predictions, one a class, and 4 results, found 12"):
        targeted_grid(images, labels, targeted_attack(model, images, labels, labels, "pgd"), ["a", "b"])
