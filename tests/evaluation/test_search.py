from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skreg.evaluation import run_attack, search


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(dim=1)


def boundary_distances(model: nn.Module, images: Tensor, dual: float) -> Tensor:
    """Closed form: distance of each image to the nearest decision boundary of a linear model."""
    weight, logits = model[0].weight.detach().flatten(1), model(images).detach()
    top = logits.argmax(dim=1)
    gaps = logits.gather(1, top[:, None]) - logits
    sizes = torch.linalg.vector_norm(weight[top][:, None] - weight[None], dual, dim=2)
    return (gaps / sizes).scatter(1, top[:, None], torch.inf).amin(dim=1)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("attack", "dual"), [("deepfool_l2", 2), ("deepfool_linf", 1)])
def test_deepfool_overshoots_the_nearest_boundary_of_a_linear_model(make_linear, grey_images, attack, dual, classes):
    model = make_linear(classes)
    result = run_attack(model, grey_images, predictions(model, grey_images), attack)
    assert result.success.all()
    reached = result.l2 if dual == 2 else result.linf
    torch.testing.assert_close(reached, 1.05 * boundary_distances(model, grey_images, dual), rtol=1e-6, atol=0)


def test_fgsm_stops_at_the_first_eps_of_its_grid_beyond_the_boundary(make_linear, grey_images):
    model = make_linear(2)
    distance = boundary_distances(model, grey_images, 1)
    result = run_attack(model, grey_images, predictions(model, grey_images), "fgsm")
    coarse = (distance * 1000).floor() + 1
    fine = coarse / 1000 * ((distance / (coarse / 1000 / 20)).floor() + 1) / 20
    expected = torch.where(coarse <= 20, fine, coarse / 1000)
    assert (coarse <= 20).any()
    torch.testing.assert_close(result.linf, expected, rtol=0, atol=1e-12)


def test_fgsm_does_not_refine_a_late_hit(make_linear, grey_images):
    model = make_linear(2)
    model[0].bias.data[0] += 8  # moves the boundary away
    labels = predictions(model, grey_images)
    distance = boundary_distances(model, grey_images, 1)
    assert (distance > 0.021).any()
    late = distance > 0.021
    result = run_attack(model, grey_images, labels, "fgsm")
    torch.testing.assert_close(result.linf[late], ((distance[late] * 1000).floor() + 1) / 1000, rtol=0, atol=1e-12)


def test_pgd_bisects_down_to_the_boundary(make_linear, grey_images):
    model = make_linear(2)
    distance = boundary_distances(model, grey_images, 1)
    result = run_attack(model, grey_images, predictions(model, grey_images), "pgd")
    assert result.success.all()
    assert (result.linf >= distance).all()
    torch.testing.assert_close(result.linf, distance, rtol=0, atol=2e-6)


# What follows repeats the searches one image at a time, as plainly as they can be written.


def gradient_of(model: nn.Module, image: Tensor, label: int) -> Tensor:
    image = image.clone().requires_grad_(True)
    loss = F.cross_entropy(model(image[None]), torch.tensor([label]))
    return torch.autograd.grad(loss, image)[0]


def plain_fgsm(model: nn.Module, image: Tensor, label: int) -> Tensor:
    sign = gradient_of(model, image, label).sign()

    def first(grid: list[float]) -> tuple[int, Tensor] | None:
        for index, eps in enumerate(grid):
            x = (image + eps * sign).clamp(0, 1)
            if int(model(x[None]).argmax()) != label:
                return index, x
        return None

    hit = first([index / 1000 for index in range(1, 1001)])
    if hit is None:
        return image
    if hit[0] < 20:
        hit = first([(hit[0] + 1) / 1000 * index / 20 for index in range(1, 21)])
    return hit[1]


def plain_pgd(model: nn.Module, image: Tensor, label: int) -> Tensor:
    best: list[Tensor] = []

    def attempt(eps: float) -> bool:
        x = image.clone()
        for _ in range(40):
            x = x + eps / 30 * gradient_of(model, x, label).sign()
            x = (image + (x - image).clamp(-eps, eps)).clamp(0, 1)
            if int(model(x[None]).argmax()) != label:
                best.append(x)
                return True
        return False

    eps = 0.3
    for _ in range(20):
        if attempt(eps):
            break
        eps *= 1.5
    else:
        return image
    low, high = 0.0, eps
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if attempt(middle) else (middle, high)
    return min(best, key=lambda x: float((x - image).abs().max()))


def plain_deepfool(model: nn.Module, image: Tensor, label: int, norm: float) -> Tensor | None:
    x = image.clone()
    order = model(image[None])[0].argsort(descending=True)[:10].tolist()
    for _ in range(100):
        leaf = x.clone().requires_grad_(True)
        logits = model(leaf[None])[0]
        highest = logits.detach().topk(2).values
        if highest[0] - highest[1] < 1e-9:
            return None  # clipped steps close in on a boundary; rounding alone says on which side they end
        if int(logits.argmax()) != label:
            return x
        steps = []
        for k in order:
            if logits[k] < logits[label]:
                gap = float((logits[label] - logits[k]).detach())
                w = torch.autograd.grad(logits[k] - logits[label], leaf, retain_graph=True)[0]
                size = float(w.norm() if norm == 2 else w.abs().sum()) + 1e-8
                steps.append((gap / size, gap / size**2 * w if norm == 2 else gap / size * w.sign()))
        x = (x + 1.05 * min(steps, key=lambda step: step[0])[1]).clamp(0, 1)
    return x


PLAIN = {
    "fgsm": plain_fgsm,
    "pgd": plain_pgd,
    "deepfool_l2": lambda *a: plain_deepfool(*a, norm=2),
    "deepfool_linf": lambda *a: plain_deepfool(*a, norm=torch.inf),
}


@pytest.mark.parametrize(
    ("attack", "handicap"),
    [
        *(("fgsm", handicap) for handicap in (0, 6, 12)),
        *(("pgd", handicap) for handicap in (0, 12)),
        *(("deepfool_l2", handicap) for handicap in (0, 2, 20)),
        *(("deepfool_linf", handicap) for handicap in (0, 2, 20)),
    ],
)
def test_batched_searches_equal_plain_ones(make_net, noise_images, attack, handicap):
    net, images = make_net(handicap), noise_images[: 2 if attack == "pgd" else 6]
    labels = predictions(net, images)
    result = run_attack(net, images, labels, attack, batch_size=2)
    plain = [PLAIN[attack](net, x, int(label)) for x, label in zip(images, labels, strict=True)]
    decided = [index for index, x in enumerate(plain) if x is not None]
    assert len(decided) >= len(images) / 2
    for index in decided:
        success = bool(predictions(net, plain[index][None]) != labels[index])
        assert bool(result.success[index]) == success
        expected = plain[index] if success else images[index]
        torch.testing.assert_close(result.adversarial[index], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("attack", ["deepfool_l2", "deepfool_linf"])
def test_gradients_of_candidates_are_the_same_together_and_one_by_one(make_net, monkeypatch, attack):
    class NumPyIdentity(torch.autograd.Function):  # its backward pass cannot be batched
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return torch.from_numpy(gradient.numpy().copy())

    class Opaque(nn.Module):
        def forward(self, x):
            return NumPyIdentity.apply(x)

    net, images = make_net(), torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = predictions(net, images)
    together = run_attack(net, images, labels, attack, preset="foolbox3")
    assert together.success.all()
    opaque = run_attack(nn.Sequential(Opaque(), net), images, labels, attack, preset="foolbox3")
    monkeypatch.setattr(search, "DEEPFOOL_TOGETHER", 0)
    one_by_one = run_attack(net, images, labels, attack, preset="foolbox3")
    for other in (opaque, one_by_one):
        assert other.success.all()
        torch.testing.assert_close(other.adversarial, together.adversarial, rtol=0, atol=1e-9)


@pytest.mark.parametrize("handicap", [0, 2, 20])
@pytest.mark.parametrize(
    ("attack", "name"), [("deepfool_l2", "L2DeepFoolAttack"), ("deepfool_linf", "LinfDeepFoolAttack")]
)
def test_deepfool_of_foolbox3_equals_foolboxs_own(make_net, noise_images, attack, name, handicap):
    foolbox = pytest.importorskip("foolbox")
    net, images = make_net(handicap).float(), noise_images.float()
    labels = predictions(net, images)
    result = run_attack(net, images, labels, attack, preset="foolbox3")
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    _, points, success = getattr(foolbox.attacks, name)()(model, images, labels, epsilons=None)
    assert result.success.tolist() == success.tolist()
    torch.testing.assert_close(result.adversarial[success], points[success], rtol=0, atol=2e-5)


def test_the_comparison_covers_successes_and_failures(make_net, noise_images):
    labels = torch.zeros(8, dtype=torch.int64)
    found = run_attack(make_net(6), noise_images, labels, "fgsm").success.tolist()
    assert True in found
    assert False in found
