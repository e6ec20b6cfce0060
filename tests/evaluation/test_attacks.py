from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skreg.evaluation import ATTACKS, run_attack, search


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


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("preset", ["paper", "foolbox3"])
@pytest.mark.usefixtures("short_cw")
def test_result_is_what_the_model_and_the_images_say(make_net, grey_images, attack, preset):
    net, images = make_net().float(), grey_images[:6].float()
    labels = predictions(net, images)
    labels[0] = (labels[0] + 1) % 4  # misclassified from the start
    eps = 0.05 if preset == "foolbox3" and attack in ("fgsm", "pgd") else None
    result = run_attack(net, images, labels, attack, preset=preset, eps=eps, batch_size=4)
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    assert result.success.tolist() == (predictions(net, result.adversarial) != labels).tolist()
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
    labels = predictions(model, grey_images)
    free = run_attack(model, grey_images, labels, "deepfool_linf")
    eps = float(free.linf.median())
    bounded = run_attack(model, grey_images, labels, "deepfool_linf", eps=eps)
    assert bounded.success.tolist() == (free.linf <= eps + 1e-6).tolist()
    assert 0 < int(bounded.success.sum()) < 12
    assert torch.equal(bounded.adversarial[bounded.success], free.adversarial[bounded.success])


def test_batch_size_changes_nothing(make_net, grey_images):
    labels = predictions(make_net(), grey_images)
    one, all_at_once = (run_attack(make_net(), grey_images, labels, "deepfool_l2", batch_size=size) for size in (1, 64))
    torch.testing.assert_close(one.adversarial, all_at_once.adversarial)


def test_seed_decides_the_random_start_and_the_global_stream_goes_on(make_net, grey_images):
    net, images = make_net().float(), grey_images.float()
    labels = predictions(net, images)
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
