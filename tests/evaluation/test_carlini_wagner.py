from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from skreg.evaluation import carlini_wagner, run_attack


def predict(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(dim=1)


def test_finds_the_nearest_boundary_of_a_linear_model(make_linear, grey_images):
    model, images = make_linear(2), grey_images[:4]
    labels = predict(model, images)
    weight, logits = model[0].weight.detach().flatten(1), model(images).detach()
    distance = (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).norm()
    result = run_attack(model, images, labels, "cw")
    assert result.success.all()
    assert (result.l2 >= distance).all()
    assert (result.l2 <= 1.05 * distance).all()


def plain_cw(net: nn.Module, image: Tensor, label: int, iterations: int) -> Tensor | None:
    """The attack for one image, as plainly as it can be written."""
    start, best, closest = torch.atanh((2 * image - 1) * 0.999999), None, math.inf
    constant, low, high = 1e-2, 0.0, math.inf
    for _ in range(5):
        moved, m, v, previous, found = torch.zeros_like(image), 0.0, 0.0, math.inf, False
        for iteration in range(iterations):
            p = moved.clone().requires_grad_(True)
            x = (torch.tanh(start + p) + 1) / 2
            logits = net(x[None])[0]
            other = max(float(each.detach()) for k, each in enumerate(logits) if k != label)
            k = next(k for k, each in enumerate(logits) if k != label and float(each.detach()) == other)
            lead = logits[label] - logits[k]
            distance = ((x - image) ** 2).sum()
            loss = distance + constant * lead if lead > 0 else distance
            gradient = torch.autograd.grad(loss, p)[0]
            if int(logits.argmax()) != label:
                found = True
                if distance < closest:
                    best, closest = x.detach(), float(distance.detach())
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            t = iteration + 1
            moved = moved - 5e-3 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-7)
            if iteration % 100 == 0:
                if not loss <= 0.9999 * previous:
                    break
                previous = float(loss.detach())
        low, high = (low, constant) if found else (constant, high)
        constant = constant * 10 if high == math.inf else (low + high) / 2
    return best


def test_batched_equals_plain(make_net, noise_images, monkeypatch):
    monkeypatch.setattr(carlini_wagner, "ITERATIONS", 130)
    net, images = make_net(), noise_images[:2]
    labels = predict(net, images)
    found = carlini_wagner.carlini_wagner(net, images, labels)
    for index, image in enumerate(images):
        expected = plain_cw(net, image, int(labels[index]), 130)
        assert expected is not None
        torch.testing.assert_close(found[index], expected, rtol=0, atol=1e-6)


def test_images_leave_the_batch_when_they_stop_improving(make_net, grey_images):
    net, rows = make_net(), []
    net.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    labels = predict(net, grey_images)
    labels[:6] = (labels[:6] + 1) % 4  # already adversarial: no distance, no loss, nothing to improve
    rows.clear()
    carlini_wagner.carlini_wagner(net, grey_images, labels)
    assert rows[0] == 12
    assert rows[100] == 12
    assert rows[101] <= 6 or rows[102] <= 6


def test_values_at_the_bounds(make_net):
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round().double()
    net = make_net()
    points = carlini_wagner.carlini_wagner(net, images, predict(net, images))
    assert points.isfinite().all()
    assert points.min() >= 0
    assert points.max() <= 1
