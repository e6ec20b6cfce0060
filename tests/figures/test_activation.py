from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from skreg.figures import activation_grid
from skreg.figures.activation import SETTINGS, Setting, gaussian_noise, maximize_activation


def linear(classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).train()


CLASSES = torch.arange(3)


@pytest.mark.parametrize("setting", [Setting(60, 0.5), Setting(60, 1.0, normalized=True)])
def test_a_linear_model_is_maximised_at_a_corner(setting):
    model, start = linear(), gaussian_noise(3, (1, 4, 4), seed=0)
    images = maximize_activation(model, start, CLASSES, setting)
    weight = model[1].weight.detach().reshape(3, 1, 4, 4)
    torch.testing.assert_close(images[weight.abs() > 0.05], (weight > 0).float()[weight.abs() > 0.05])


def test_the_papers_setting_is_ten_thousand_steps_of_a_thousandth_of_the_gradient():
    assert SETTINGS["paper"] == Setting(10_000, 0.001, normalized=False)
    model = net().eval()
    start = gaussian_noise(3, (1, 4, 4), seed=3)
    expected = start.clone()
    for _ in range(5):
        leaf = expected.clone().requires_grad_(True)
        model(leaf)[torch.arange(3), CLASSES].sum().backward()
        expected = (expected + 0.001 * leaf.grad).clamp(0, 1)
    torch.testing.assert_close(maximize_activation(model, start, CLASSES, Setting(5, 0.001)), expected)


def test_normalized_steps_do_not_depend_on_the_gradients_size():
    model, start = linear(), gaussian_noise(3, (1, 4, 4), seed=0)
    setting = Setting(7, 0.3, normalized=True)
    expected = maximize_activation(model, start, CLASSES, setting)
    model[1].weight.data *= 1000
    torch.testing.assert_close(maximize_activation(model, start, CLASSES, setting), expected)
    first = maximize_activation(model, start, CLASSES, Setting(1, 0.01, normalized=True))
    inside = ((start > 0.02) & (start < 0.98)).all(dim=0)  # where the projection changes nothing
    assert inside.any()
    assert ((first - start).flatten(1).norm(dim=1) <= 0.01 + 1e-6).all()


def test_images_do_not_influence_each_other():
    model, start = net().eval(), gaussian_noise(3, (1, 4, 4), seed=5)
    together = maximize_activation(model, start, CLASSES, Setting(20, 0.1))
    alone = [maximize_activation(model, start[i : i + 1], CLASSES[i : i + 1], Setting(20, 0.1)) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_it_ends_once_a_step_changes_nothing():
    class Counting(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.net = linear()

        def forward(self, images):
            self.calls += 1
            return self.net(images)

    model = Counting()
    start = gaussian_noise(3, (1, 4, 4), seed=0)
    images = maximize_activation(model, start, CLASSES, Setting(100_000, 5.0))
    assert model.calls < 1000
    assert torch.equal(images, maximize_activation(model, images, CLASSES, Setting(3, 5.0)))


def test_constant_logits_leave_the_noise_as_it_is():
    model = linear()
    model[1].weight.data.zero_()
    start = gaussian_noise(3, (1, 4, 4), seed=0)
    for setting in (Setting(3, 0.1), Setting(3, 0.1, normalized=True)):
        assert torch.equal(maximize_activation(model, start, CLASSES, setting), start)


def test_model_is_left_as_it_was_and_progress_is_told():
    model = net()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    told = []
    maximize_activation(model, gaussian_noise(3, (1, 4, 4), 0), CLASSES, Setting(1000, 1e-5), progress=told.append)
    assert told == [500, 1000]
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_noise_is_one_image_for_all_classes_and_its_seed_chooses_it():
    noise = gaussian_noise(4, (3, 16, 16), seed=1)
    assert noise.shape == (4, 3, 16, 16)
    assert torch.equal(noise[0], noise[3])
    assert torch.equal(noise, gaussian_noise(4, (3, 16, 16), seed=1))
    assert not torch.equal(noise, gaussian_noise(4, (3, 16, 16), seed=2))
    assert 0 <= noise.min() < 0.1 < 0.9 < noise.max() <= 1
    assert float(noise[0].mean()) == pytest.approx(0.5, abs=0.05)


def test_picture_shows_noise_then_the_images_with_confidences():
    start = torch.rand(2, 1, 4, 4)
    images = {"V": torch.rand(2, 1, 4, 4), "VR": torch.rand(2, 1, 4, 4)}
    confidences = {"V": torch.tensor([0.25, 1.0]), "VR": torch.tensor([0.5, 0.0])}
    axes = np.array(activation_grid(start, images, confidences, ["a", "b"]).axes).reshape(2, 3)
    for row in range(2):
        for column, expected in enumerate((start, images["V"], images["VR"])):
            np.testing.assert_array_equal(np.asarray(axes[row, column].images[0].get_array()), expected[row, 0])
    assert [[each.get_xlabel() for each in row] for row in axes] == [["", "25%", "50%"], ["", "100%", "0%"]]


def test_errors():
    model = linear()
    model[1].weight.data[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"step 0: the gradient of the logits .* not finite"):
        maximize_activation(model, gaussian_noise(3, (1, 4, 4), 0), CLASSES)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Setting(0, 0.1)
    with pytest.raises(ValueError, match="step_size must be finite and above 0"):
        Setting(1, 0.0)
