from __future__ import annotations

import pytest
import torch

from skreg.attacks import FGSM, PGD
from skreg.evaluation import fixed_radius_pgd, robust_accuracy


def flipped_predictions(model, images, wrong):
    """What the model says, but for the first `wrong` images."""
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    labels[:wrong] = 1 - labels[:wrong]
    return labels


def linf_distances(model, images):
    """Of a linear model of two classes: the gap of its logits over the l1 norm of its weights' difference."""
    weight, logits = model[0].weight.detach().flatten(1), model(images).detach()
    return (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).abs().sum()


@pytest.mark.parametrize("attacks", [lambda eps: [FGSM(eps=eps)], fixed_radius_pgd], ids=["fgsm", "pgd"])
def test_survivors_of_a_linear_model_are_those_further_than_eps(make_linear, grey_images, attacks):
    model, images = make_linear(2), grey_images
    labels = flipped_predictions(model, images, wrong=2)
    distances = linf_distances(model, images)
    for eps in distances.sort().values[1::4].tolist():
        survivors = (distances[2:] > eps * (1 + 1e-9)).sum()
        found = robust_accuracy(model, images, labels, attacks(eps * (1 + 1e-9)), batch_size=5)
        assert (found.count, found.total) == (int(survivors), 12)
    assert 0 < int(survivors) < 10


def test_no_attacks_gives_the_clean_accuracy(make_linear, grey_images):
    model = make_linear(2)
    labels = flipped_predictions(model, grey_images, wrong=3)
    assert robust_accuracy(model, grey_images, labels, []).count == 9


def test_later_attacks_see_only_survivors(make_linear, grey_images):
    model, seen = make_linear(2), []

    class Recording(PGD):
        def __call__(self, model, images, labels, **options):
            seen.append(len(images))
            return super().__call__(model, images, labels, **options)

    labels = flipped_predictions(model, grey_images, wrong=0)
    eps = float(linf_distances(model, grey_images).median()) * 1.001
    count = robust_accuracy(model, grey_images, labels, [Recording(eps=eps), Recording(eps=eps)]).count
    assert seen == [12, count]
    assert 0 < count < 12


def test_more_radius_leaves_fewer(make_net, noise_images):
    net = make_net()
    with torch.no_grad():
        labels = net(noise_images).argmax(dim=1)
    counts = [
        robust_accuracy(net, noise_images, labels, fixed_radius_pgd(eps, steps=10)).count for eps in (1e-4, 0.05, 1.0)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 8
    assert counts[-1] == 0


def test_zero_gradients_leave_every_image(constant_model, grey_images):
    labels = torch.zeros(12, dtype=torch.int64)
    assert robust_accuracy(constant_model, grey_images.float(), labels, fixed_radius_pgd(1.0)).count == 12


def test_nan_logits_are_an_error(nan_model, grey_images):
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        robust_accuracy(nan_model, grey_images.float(), torch.zeros(12, dtype=torch.int64), [])
