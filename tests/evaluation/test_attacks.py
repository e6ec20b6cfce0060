from __future__ import annotations

import pytest
import torch
from torch import nn

from skreg.evaluation import ATTACKS, run_attack


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("preset", ["paper", "foolbox3"])
@pytest.mark.usefixtures("short_cw")
def test_result_is_what_the_model_and_the_images_say(make_net, grey_images, attack, preset):
    net, images = make_net().float(), grey_images[:6].float()
    labels = net(images).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 4  # misclassified from the start
    eps = 0.05 if preset == "foolbox3" and attack in ("fgsm", "pgd") else None
    result = run_attack(net, images, labels, attack, preset=preset, eps=eps, batch_size=4)
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    assert result.success.tolist() == (net(result.adversarial).argmax(dim=1) != labels).tolist()
    assert result.success[1:].any()
    change = (result.adversarial.double() - images.double()).flatten(1)
    found = result.success
    assert result.l0[found].tolist() == (change[found] != 0).sum(1).tolist()
    torch.testing.assert_close(result.l2[found], change[found].square().sum(1).sqrt())
    torch.testing.assert_close(result.linf[found], change[found].abs().amax(1))
    assert result.linf[0] == result.l2[0] == result.l0[0] == 0
    assert torch.isinf(torch.stack([result.l0, result.l2, result.linf])[:, ~found]).all()
    assert torch.equal(result.adversarial[~found], images[~found])
    if eps is not None:
        assert (result.linf[found] <= eps + 1e-6).all()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("preset", ["paper", "foolbox3"])
@pytest.mark.usefixtures("short_cw")
def test_no_gradient_is_a_failed_search_and_no_success(constant_model, grey_images, attack, preset):
    labels = torch.zeros(12, dtype=torch.int64)
    images = grey_images.float()
    result = run_attack(constant_model, images, labels, attack, preset=preset, eps=0.3)
    assert not result.success.any()
    assert torch.equal(result.adversarial, images)
    assert torch.isinf(result.linf).all()


class OnlyBlack(torch.nn.Module):
    """Class 0 without a gradient, and class 1 where all is black."""

    def forward(self, images):
        flat = 0.0 * images.flatten(1).sum(dim=1)
        return torch.stack([flat, flat - 1 + 2 * (images.flatten(1) == 0).all(dim=1)], dim=1)


@pytest.mark.parametrize("preset", ["paper", "foolbox3"])
@pytest.mark.usefixtures("short_cw")
def test_black_that_foolbox_returns_for_a_failed_search_is_no_success(grey_images, preset):
    images = grey_images.float()
    result = run_attack(OnlyBlack(), images, torch.zeros(12, dtype=torch.int64), "cw", preset=preset)
    assert not result.success.any()
    assert torch.equal(result.adversarial, images)


def test_eps_bounds_what_counts_but_not_the_search(make_linear, grey_images):
    model = make_linear(2)
    labels = model(grey_images).argmax(dim=1)
    free = run_attack(model, grey_images, labels, "deepfool_linf")
    eps = float(free.linf.median())
    bounded = run_attack(model, grey_images, labels, "deepfool_linf", eps=eps)
    assert bounded.success.tolist() == (free.linf <= eps + 1e-6).tolist()
    assert 0 < int(bounded.success.sum()) < 12
    assert torch.equal(bounded.adversarial[bounded.success], free.adversarial[bounded.success])


def test_batch_size_changes_nothing(make_net, grey_images):
    labels = make_net()(grey_images).argmax(dim=1)
    one, all_at_once = (run_attack(make_net(), grey_images, labels, "deepfool_l2", batch_size=size) for size in (1, 64))
    torch.testing.assert_close(one.adversarial, all_at_once.adversarial)


def test_seed_decides_the_random_start_and_the_global_stream_goes_on(make_net, grey_images):
    net, images = make_net().float(), grey_images.float()
    labels = net(images).argmax(dim=1)
    before = torch.random.get_rng_state()
    first, again, other = (
        run_attack(net, images, labels, "pgd", preset="foolbox3", eps=0.1, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.adversarial, again.adversarial)
    assert not torch.equal(first.adversarial, other.adversarial)


@pytest.mark.parametrize("preset", ["paper", "foolbox3"])
def test_model_is_left_as_it_was(make_net, grey_images, preset):
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), make_net().float())
    net.train()
    net[2][1].eval()
    net[2][1].weight.requires_grad_(False)
    images = grey_images.float()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.no_grad():  # the attack needs gradients whatever the caller's mode
        run_attack(net, images, torch.zeros(12, dtype=torch.int64), "deepfool_l2", preset=preset)
    assert net.training
    assert not net[2][1].training
    assert not net[2][1].weight.requires_grad
    assert net[2][3].weight.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("attack", ATTACKS)
def test_nan_logits_are_an_error(nan_model, grey_images, attack):
    with pytest.raises(FloatingPointError, match="NaN or infinite for 12 of 12 images"):
        run_attack(nan_model, grey_images.float(), torch.zeros(12, dtype=torch.int64), attack)


def test_no_images(make_net):
    empty = torch.zeros(0, 1, 8, 8, dtype=torch.float64)
    result = run_attack(make_net(), empty, torch.zeros(0, dtype=torch.int64), "fgsm")
    assert result.adversarial.shape == empty.shape
    assert result.success.shape == result.l2.shape == (0,)


def test_unknown_names_are_listed(make_net, grey_images):
    labels = torch.zeros(12, dtype=torch.int64)
    with pytest.raises(ValueError, match="attack must be one of 'fgsm', 'pgd', 'deepfool_l2', 'deepfool_linf'"):
        run_attack(make_net(), grey_images, labels, "deepfool")
    with pytest.raises(ValueError, match="preset must be one of 'paper', 'foolbox3'"):
        run_attack(make_net(), grey_images, labels, "fgsm", preset="today")


def test_bad_arguments(make_net, grey_images):
    labels = torch.zeros(12, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"images must lie within bounds"):
        run_attack(make_net(), grey_images + 1, labels, "fgsm")
    with pytest.raises(TypeError, match="images must be floating point"):
        run_attack(make_net(), (grey_images * 255).byte(), labels, "fgsm")
    with pytest.raises(TypeError, match="labels must be int64"):
        run_attack(make_net(), grey_images, labels.int(), "fgsm")
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 4\)"):
        run_attack(make_net(), grey_images, labels + 4, "fgsm")
    with pytest.raises(ValueError, match="eps must lie in"):
        run_attack(make_net(), grey_images, labels, "fgsm", eps=25)
    with pytest.raises(ValueError, match=r"eps must be finite and at least 0, found -0\.1"):
        run_attack(make_net(), grey_images, labels, "fgsm", eps=-0.1)
    with pytest.raises(TypeError, match="eps must be a number, found str"):
        run_attack(make_net(), grey_images, labels, "fgsm", eps="0.1")
    with pytest.raises(ValueError, match="fixed radius: pass eps"):
        run_attack(make_net(), grey_images, labels, "pgd", preset="foolbox3")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        run_attack(make_net(), grey_images, labels, "fgsm", batch_size=0)
    with pytest.raises(ValueError, match="images are on meta but the model is on cpu"):
        run_attack(make_net(), grey_images.to("meta"), labels.to("meta"), "fgsm")
