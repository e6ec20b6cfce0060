"""ADef against the algorithm written out for one image, and against what the algorithm promises."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

foolbox = pytest.importorskip("foolbox")
from scipy.ndimage import gaussian_filter  # noqa: E402

from skreg.attacks import ADef  # noqa: E402
from skreg.attacks.deformation import Deformation, gaussian_blur, warp  # noqa: E402


def make_net(channels: int = 2, classes: int = 5, size: tuple[int, int] = (9, 7), seed: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(channels, 8, 3),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(8 * (size[0] - 2) * (size[1] - 2), classes),
        )
    net = net.double().eval().requires_grad_(False)
    net[-1].bias -= net(make_images(6, channels, size)).mean(dim=0)  # puts boundaries near every image
    return net


def make_images(count: int = 6, channels: int = 2, size: tuple[int, int] = (9, 7)) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, channels, *size, generator=generator, dtype=torch.float64)
    return gaussian_blur(images, 0.7)


def predict(net: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net(images).argmax(dim=1)


def plain_warp(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    _, h, w = image.shape
    out = np.empty_like(image)
    for i in range(h):
        for j in range(w):
            x = min(max(j + field[0, i, j], 0), w - 1)
            y = min(max(i + field[1, i, j], 0), h - 1)
            x0, y0 = min(int(x), max(w - 2, 0)), min(int(y), max(h - 2, 0))
            x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
            p, q = x - x0, y - y0
            upper = (1 - p) * image[:, y0, x0] + p * image[:, y0, x1]
            lower = (1 - p) * image[:, y1, x0] + p * image[:, y1, x1]
            out[:, i, j] = (1 - q) * upper + q * lower
    return out


def plain_adef(
    net: nn.Module,
    image: Tensor,
    label: int,
    *,
    smooth: float = 1.0,
    overshoot: float = 1.02,
    target: int | None = None,
    steps: int = 100,
) -> tuple[np.ndarray, np.ndarray]:
    original = image.numpy()
    x, total = original.copy(), np.zeros((2, *original.shape[1:]))
    order = [int(k) for k in net(image[None])[0].argsort(descending=True)]
    candidates = order[1:10] if target is None else [target]
    for _ in range(steps):
        leaf = torch.from_numpy(x)[None].requires_grad_(True)
        logits = net(leaf)[0]
        top = int(logits.argmax())
        if top == target if target is not None else top != label:
            break
        dx, dy = np.gradient(x, axis=2), np.gradient(x, axis=1)
        options = []
        for k in candidates:
            gap = logits[k] - logits[label if target is None else top]
            gradient = torch.autograd.grad(gap, leaf, retain_graph=True)[0][0].numpy()
            a = np.stack([(gradient * dx).sum(0), (gradient * dy).sum(0)])
            if smooth:
                a = np.stack([gaussian_filter(each, smooth) for each in a])
            n = (a**2).sum()
            if smooth:
                a = np.stack([gaussian_filter(each, smooth) for each in a])
            if n > 0:
                options.append(total - float(gap.detach()) / n * a)
        if not options:
            break
        total = min(options, key=lambda field: np.linalg.norm(field))
        x = plain_warp(original, overshoot * total)
    return x, total


def foolbox_model(net: nn.Module) -> object:
    return foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")


@pytest.mark.parametrize(("smooth", "overshoot"), [(1.0, 1.02), (1.0, 1.0), (0.0, 1.02), (2.3, 1.1)])
def test_equals_the_plain_algorithm(smooth, overshoot):
    net, images = make_net(), make_images()
    labels = predict(net, images)
    attack = ADef(smooth=smooth, overshoot=overshoot, steps=6)
    found, _, success = attack(foolbox_model(net), images, labels, epsilons=None)
    for index, image in enumerate(images):
        expected, field = plain_adef(net, image, int(labels[index]), smooth=smooth, overshoot=overshoot, steps=6)
        torch.testing.assert_close(found[index], torch.from_numpy(expected), rtol=0, atol=1e-10)
        torch.testing.assert_close(attack.fields[index], torch.from_numpy(field), rtol=1e-9, atol=1e-10)
    assert success.tolist() == (predict(net, found) != labels).tolist()
    if smooth and overshoot > 1:  # without smoothing the field folds and may not arrive
        assert success.any()


def test_targeted_equals_the_plain_algorithm():
    net, images = make_net(), make_images()
    labels = predict(net, images)
    target = (labels + 1) % 5
    attack = ADef(steps=8)
    criterion = foolbox.criteria.TargetedMisclassification(target)
    found, _, success = attack(foolbox_model(net), images, criterion, epsilons=None)
    for index, image in enumerate(images):
        expected, _ = plain_adef(net, image, int(labels[index]), target=int(target[index]), steps=8)
        torch.testing.assert_close(found[index], torch.from_numpy(expected), rtol=0, atol=1e-10)
    assert success.tolist() == (predict(net, found) == target).tolist()
    assert success.any()


class Inner(nn.Module):
    """Two classes, linear, blind to the border, where coordinates are clipped."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(6, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        self.weight = nn.Parameter(nn.functional.pad(weight, (1, 1, 1, 1)))
        self.bias = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        score = (images[:, 0] * self.weight).sum(dim=(1, 2)) + self.bias
        return torch.stack([score, -score], dim=1)


@pytest.mark.parametrize("overshoot", [1.01, 1.02, 1.3])
def test_one_step_over_the_boundary_where_both_model_and_image_are_linear(overshoot):
    """On a ramp a warp is linear in the field: the smallest field is gap / |a| long, in closed form."""
    model = Inner()
    x = torch.arange(8, dtype=torch.float64)
    image = (0.3 + 0.03 * x + 0.02 * x[:, None]).expand(1, 1, 8, 8).clone()
    with torch.no_grad():
        model.bias -= model(image)[0, 0] - 0.05
    gap = 2 * 0.05
    slopes = torch.stack([0.03 * 2 * model.weight, 0.02 * 2 * model.weight]).detach()
    attack = ADef(smooth=0, overshoot=overshoot)
    found, _, success = attack(foolbox_model(model), image, torch.tensor([0]), epsilons=None)
    assert success.all()
    torch.testing.assert_close(float(attack.fields.norm()), gap / float(slopes.norm()), rtol=1e-9, atol=0)
    logits = model(found)[0].detach()
    torch.testing.assert_close(float(logits[1] - logits[0]), (overshoot - 1) * gap, rtol=1e-6, atol=0)


def test_without_overshoot_it_ends_on_the_boundary():
    net, images = make_net(), make_images()
    labels = predict(net, images)
    found, fields = Deformation(overshoot=1.0).run(net, images, labels)
    highest = net(found).topk(2, dim=1).values
    assert (highest[:, 0] - highest[:, 1]).max() < 1e-3
    assert fields.dtype == torch.float64


def test_the_filter_is_that_of_scipy_also_where_it_is_wider_than_the_image():
    values = torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for deviation in (0.4, 1.0, 3.0):
        expected = gaussian_filter(values.numpy(), (0, 0, deviation, deviation))
        torch.testing.assert_close(gaussian_blur(values, deviation), torch.from_numpy(expected))


def test_the_filter_is_its_own_adjoint():
    a, b = torch.rand(2, 1, 1, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((gaussian_blur(a, 1.3) * b).sum(), (a * gaussian_blur(b, 1.3)).sum())


def test_a_zero_field_changes_no_bit_and_a_shift_is_a_shift():
    images = make_images().float()
    field = torch.zeros(6, 2, 9, 7, dtype=torch.float64)
    assert torch.equal(warp(images, field), images)
    field[:, 0] += 2
    field[:, 1] -= 1
    shifted = warp(images, field)
    assert torch.equal(shifted[:, :, 1:, :5], images[:, :, :-1, 2:])
    assert torch.equal(shifted[:, :, 0, :5], images[:, :, 0, 2:])
    assert torch.equal(shifted[:, :, 1:, 5], images[:, :, :-1, -1])


@pytest.mark.parametrize("shape", [(0, 2, 9, 7), (3, 2, 1, 7), (3, 2, 9, 1)])
def test_odd_shapes(shape):
    images = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    model = nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2] * shape[3], 3).double())
    labels = predict(model, images) if len(images) else torch.zeros(0, dtype=torch.int64)
    found, fields = Deformation().run(model, images, labels)
    assert found.shape == images.shape
    assert fields.shape == (len(images), 2, *shape[2:])
    assert found.isfinite().all()


def test_an_image_without_slope_stays_and_ends_early():
    calls = []

    class Counting(Inner):
        def forward(self, images: Tensor) -> Tensor:
            calls.append(len(images))
            return super().forward(images)

    flat = torch.full((3, 1, 8, 8), 0.5, dtype=torch.float64)
    model = Counting()
    labels = predict(model, flat)
    found, fields = Deformation().run(model, flat, labels)
    assert torch.equal(found, flat)
    assert not fields.any()
    assert len(calls) <= 4


def test_batched_results_do_not_depend_on_their_neighbours():
    net, images = make_net(), make_images()
    labels = predict(net, images)
    together, _ = Deformation().run(net, images, labels)
    for index in range(len(images)):
        alone, _ = Deformation().run(net, images[index : index + 1], labels[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-9)


def test_float32_images_of_a_trainable_model_leave_it_without_gradients():
    net = make_net().float().requires_grad_(True)
    images = make_images().float()
    with torch.no_grad():
        found, _, success = ADef()(foolbox_model(net), images, predict(net, images).int(), epsilons=None)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert success.any()
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"smooth": -1.0}, ValueError, "smooth must be finite and at least 0"),
        ({"candidates": 1}, ValueError, "candidates must be at least 2"),
        ({"overshoot": 0.9}, ValueError, "overshoot must be at least 1"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        ADef(**options)


def test_bad_criterion():
    class Other(foolbox.criteria.Criterion):
        def __repr__(self) -> str:
            return "Other()"

        def __call__(self, perturbed: object, outputs: object) -> object:
            raise AssertionError

    with pytest.raises(ValueError, match="TargetedMisclassification, found Other"):
        ADef().run(foolbox_model(make_net()), make_images(), Other())


def test_its_options_are_shown():
    assert repr(ADef(steps=5)) == "ADef(steps=5, smooth=1.0, candidates=10, overshoot=1.02)"


def test_the_other_attacks_need_no_foolbox():
    code = """
import sys
sys.modules["foolbox"] = None
from skreg.attacks import *
import skreg.attacks
assert callable(pgd)
try:
    skreg.attacks.ADef
except ModuleNotFoundError as error:
    assert 'pip install "skreg[lab]"' in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
