"""pgd and fgsm against answers worked out by hand, and what they promise for any input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skreg.attacks import FGSM, BatchPart, fgsm, pgd

Batch = Callable[..., tuple[Tensor, Tensor]]


@pytest.mark.parametrize("objective", ["cross_entropy", "margin"])
@pytest.mark.parametrize("random_start", [True, False, "uniform", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pgd_reaches_the_corner_of_a_linear_model(
    linear: Any, batch: Batch, objective: Any, random_start: Any, dtype: torch.dtype
) -> None:
    model = linear(2, dtype=dtype)
    images, labels = batch(dtype=dtype)
    found = pgd(model, images, labels, eps=0.2, steps=5, objective=objective, random_start=random_start)
    expected = model.worst(images, labels, 0.2)
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    assert bool(((expected == 0) | (expected == 1)).any()), "the bounds must cut some pixels for this to test them"


def test_default_step_size_is_two_and_a_half_eps_over_steps(linear: Any, batch: Batch) -> None:
    model = linear(2)
    images, labels = batch()
    images = images * 0.4 + 0.3
    direction = (model.worst(images, labels, 0.1) - images).sign()
    found = pgd(model, images, labels, eps=0.2, steps=5, step_size=0.01, random_start=False)
    torch.testing.assert_close(found, images + 0.05 * direction)
    # 2.5 * 0.2 / 40 is 0.0125 a step; two steps are short of eps.
    ten = pgd(model, images, labels, eps=0.2, steps=10, random_start=False)
    same = pgd(model, images, labels, eps=0.2, steps=10, step_size=0.05, random_start=False)
    assert torch.equal(ten, same)


@pytest.mark.parametrize("objective", ["cross_entropy", "margin"])
def test_targeted(linear: Any, batch: Batch, objective: Any) -> None:
    model = linear(2)
    images, labels = batch()
    found = pgd(model, images, labels, eps=0.3, steps=5, target=1 - labels, objective=objective)
    assert torch.equal(found, model.worst(images, labels, 0.3))
    away = pgd(model, images, labels, eps=0.3, steps=5, target=labels, objective=objective)
    assert torch.equal(away, model.worst(images, 1 - labels, 0.3))
    assert torch.equal(fgsm(model, images, labels, eps=0.3, target=1 - labels), model.worst(images, labels, 0.3))


def test_targeted_reaches_a_class_among_many(linear: Any, batch: Batch) -> None:
    model = linear(4)
    images, labels = batch(classes=4)
    target = (labels + 1) % 4
    found = pgd(model, images, labels, eps=1.0, steps=20, target=target, restarts=3)
    assert torch.equal(model(found).argmax(1), target)


def test_fgsm(linear: Any, batch: Batch) -> None:
    model = linear(3)
    images, labels = batch(classes=3)
    probabilities = torch.softmax(model(images), dim=1)
    gradient = (probabilities - F.one_hot(labels, 3)) @ model.weight
    expected = (images + 0.25 * gradient.sign().reshape(images.shape)).clamp(0, 1).detach()
    assert torch.equal(fgsm(model, images, labels, eps=0.25), expected)
    assert torch.equal(FGSM(0.25)(model, images, labels), expected)


def test_eps_for_each_image(linear: Any, batch: Batch) -> None:
    model = linear(2)
    images, labels = batch(4)
    eps = torch.tensor([0.0, 0.1, 0.5, 1.0])
    found = pgd(model, images, labels, eps=eps, steps=5)
    assert torch.equal(found, model.worst(images, labels, eps.reshape(-1, 1, 1, 1)))
    assert torch.equal(found[0], images[0])
    assert torch.equal(fgsm(model, images, labels, eps=eps.double()), found)


def test_step_size_for_each_image(linear: Any, batch: Batch) -> None:
    model = linear(2)
    images, labels = batch(2)
    images = images * 0.2 + 0.4
    step_size = torch.tensor([0.01, 0.02])
    found = pgd(model, images, labels, eps=0.2, steps=3, step_size=step_size, random_start=False)
    expected = model.worst(images, labels, 3 * step_size.reshape(-1, 1, 1, 1))
    torch.testing.assert_close(found, expected)


def test_other_bounds(linear: Any, batch: Batch) -> None:
    model = linear(2)
    images, labels = batch()
    found = pgd(model, images * 255, labels, eps=40.0, steps=4, bounds=(0, 255))
    assert found.min() == 0
    assert found.max() == 255
    with pytest.raises(ValueError, match=r"within bounds \(0\.0, 1\.0\), found values from"):
        pgd(model, images * 255, labels, eps=40.0)


def naive_trades_attack(
    model: nn.Module, images: Tensor, eps: float, steps: int, step_size: float, noise: Tensor
) -> Tensor:
    """The inner loop of TRADES (arXiv:1901.08573, algorithm 1), computed the long way."""
    adversarial = images + 0.001 * noise
    for _ in range(steps):
        adversarial = adversarial.detach().requires_grad_()
        p, q = torch.softmax(model(images), dim=1), torch.softmax(model(adversarial), dim=1)
        (gradient,) = torch.autograd.grad((p * (p.log() - q.log())).sum(), adversarial)
        adversarial = adversarial.detach() + step_size * gradient.sign()
        adversarial = torch.min(torch.max(adversarial, images - eps), images + eps).clamp(0, 1)
    return adversarial


def test_kl_objective_is_that_of_trades(net: nn.Module, batch: Batch) -> None:
    net.double().eval()
    images, labels = batch(classes=3, dtype=torch.float64)
    noise = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    # The paper clamps after the first step; images away from the bounds make the starts the same.
    images = images * 0.8 + 0.1
    expected = naive_trades_attack(net, images, 0.1, 7, 0.02, noise)
    found = pgd(
        net,
        images,
        labels,
        eps=0.1,
        steps=7,
        step_size=0.02,
        objective="kl",
        generator=torch.Generator().manual_seed(3),
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_kl_computes_the_clean_output_once(linear: Any, batch: Batch) -> None:
    model = linear(2)
    images, labels = batch(6)
    pgd(model, images, labels, eps=0.1, steps=5, objective="kl")
    assert model.rows == [6] * (1 + 5)


def test_generator_makes_it_reproducible(net: nn.Module, batch: Batch) -> None:
    images, labels = batch(classes=3)

    def attack(seed: int) -> Tensor:
        return pgd(
            net,
            images,
            labels,
            eps=0.1,
            steps=1,
            step_size=0.01,
            generator=torch.Generator().manual_seed(seed),
        )

    state = torch.random.get_rng_state()
    assert torch.equal(attack(0), attack(0))
    assert not torch.equal(attack(0), attack(1))
    assert torch.equal(torch.random.get_rng_state(), state), "the default generator must not be drawn from"


@pytest.mark.parametrize("start", ["uniform", "gaussian"])
def test_the_model_sees_no_image_out_of_bounds(linear: Any, batch: Batch, start: Any) -> None:
    model = linear(2)
    images, labels = batch()
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    pgd(model, images.round(), labels, eps=0.0005, steps=2, random_start=start)
    for step in seen:
        assert 0 <= step.min() <= step.max() <= 1
        assert (step - images.round()).abs().max() <= 0.0005 + 1e-7


def test_uniform_start_fills_the_interval() -> None:
    class Flat(nn.Module):
        """Its gradient is zero, so that an attack stays where it starts."""

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :2] * 0

    images = torch.full((64, 2, 3, 3), 0.5)
    labels = torch.zeros(64, dtype=torch.int64)
    assert torch.equal(pgd(Flat(), images, labels, eps=0.1, random_start=False), images)
    uniform = pgd(Flat(), images, labels, eps=0.1, generator=torch.Generator().manual_seed(0)) - images
    assert -0.1 < uniform.min() < -0.095
    assert 0.095 < uniform.max() < 0.1 + 1e-7
    assert abs(float(uniform.mean())) < 0.005
    gaussian = pgd(Flat(), images, labels, eps=0.1, objective="kl", generator=torch.Generator().manual_seed(0))
    assert 0.0009 < float((gaussian - images).std()) < 0.0011
    scaled = pgd(Flat(), images * 200, labels, eps=9.0, random_start="gaussian", bounds=(0, 200))
    assert 0.18 < float((scaled - images * 200).std()) < 0.22


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 4),
    eps=st.one_of(st.just(0.0), st.floats(0, 2), st.lists(st.floats(0, 2), min_size=4, max_size=4)),
    steps=st.integers(1, 4),
    step_size=st.one_of(st.none(), st.floats(1e-4, 3)),
    start=st.sampled_from([True, False, "uniform", "gaussian"]),
    objective=st.sampled_from(["cross_entropy", "margin", "kl"]),
    restarts=st.integers(1, 3),
    mode=st.sampled_from(["eval", "keep"]),
    low=st.floats(-3, 1),
    width=st.floats(0.1, 300),
)
def test_stays_within_eps_and_bounds(
    seed: int,
    count: int,
    eps: Any,
    steps: int,
    step_size: float | None,
    start: Any,
    objective: Any,
    restarts: int,
    mode: Any,
    low: float,
    width: float,
) -> None:
    if start is False:
        restarts = 1
        objective = "margin" if objective == "kl" else objective
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).eval()
    images = (low + width * torch.rand(count, 2, 2, 2, generator=generator)).clamp(low, low + width)
    before = images.clone()
    labels = torch.randint(3, (count,), generator=generator)
    radius = torch.tensor(eps[:count]) if isinstance(eps, list) else eps
    found = pgd(
        model,
        images,
        labels,
        eps=radius,
        steps=steps,
        step_size=step_size,
        random_start=start,
        restarts=restarts,
        objective=objective,
        bounds=(low, low + width),
        mode=mode,
        generator=generator,
    )
    assert torch.equal(images, before)
    assert found.shape == images.shape
    assert not found.requires_grad
    assert found.data_ptr() != images.data_ptr() or count == 0
    bounds = torch.tensor([low, low + width])
    assert bool(((found >= bounds[0]) & (found <= bounds[1])).all())
    distance = (found - images).abs().flatten(1).amax(1)
    limit = torch.as_tensor(radius).expand(count)
    assert bool((distance <= limit + 1e-6 * width).all())
    assert torch.equal(found[limit == 0], images[limit == 0])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), steps=st.integers(1, 8))
def test_more_steps_climb_higher_on_a_linear_model(seed: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 2)).double()
    images = torch.rand(3, 2, 2, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(2, (3,), generator=generator)

    def reached(steps: int) -> Tensor:
        found = pgd(model, images, labels, eps=0.5, steps=steps, step_size=0.05, random_start=False)
        return F.cross_entropy(model(found), labels, reduction="none")

    assert bool((reached(steps + 1) >= reached(steps)).all())
    assert bool((reached(steps) > F.cross_entropy(model(images), labels, reduction="none")).all())


@pytest.mark.parametrize("options", [{}, {"restarts": 3}, {"objective": "kl"}, {"objective": "margin"}])
def test_empty_batch(net: nn.Module, batch: Batch, options: dict[str, Any]) -> None:
    images, labels = batch(0, classes=3)
    assert pgd(net, images, labels, eps=0.1, **options).shape == (0, 2, 3, 3)
    assert fgsm(net, images, labels, eps=torch.zeros(0)).shape == (0, 2, 3, 3)


def test_the_attack_keeps_no_graph_for_parameters(net: nn.Module) -> None:
    leaves: list[torch.Tensor] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = self.net(images)
            waiting, seen = [logits.grad_fn], set()
            while waiting:
                node = waiting.pop()
                if node is not None and node not in seen:
                    seen.add(node)
                    waiting += [following for following, _ in node.next_functions]
                    leaves.extend([node.variable] if hasattr(node, "variable") else [])
            return logits

    images = torch.rand(4, 2, 3, 3)
    pgd(Watched(), images, torch.zeros(4, dtype=torch.int64), eps=0.1, steps=2)
    assert len(leaves) == 2
    assert all(leaf.shape == images.shape for leaf in leaves)
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("start", ["uniform", "gaussian"])
def test_parts_of_a_batch_start_where_the_whole_batch_does(net: nn.Module, start: str) -> None:
    images, labels = torch.rand(5, 2, 3, 3), torch.zeros(5, dtype=torch.int64)
    options = {"eps": 0.1, "steps": 1, "step_size": 1e-9, "random_start": start}
    generator = torch.Generator().manual_seed(3)
    whole = pgd(net, images, labels, generator=generator, **options)
    for part in (slice(0, 2), slice(2, 5)):
        own = torch.Generator().manual_seed(3)
        found = pgd(net, images[part], labels[part], generator=BatchPart(own, part.start, 5), **options)
        torch.testing.assert_close(found, whole[part], rtol=0, atol=1e-7)
        assert torch.equal(own.get_state(), generator.get_state())
    with pytest.raises(ValueError, match="5 images in the batch, found 4 to 6"):
        pgd(net, images[:2], labels[:2], generator=BatchPart(own, 4, 5), **options)
    with pytest.raises(ValueError, match="restarts above 1"):
        pgd(net, images[:2], labels[:2], eps=0.1, restarts=2, generator=BatchPart(own, 0, 5))
