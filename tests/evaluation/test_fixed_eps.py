"""Attacks within a fixed eps, on linear models, where the distance to the nearest boundary is known."""

from __future__ import annotations

import sys

import pytest
import torch

from skreg.evaluation import ATTACKS_AT_EPS, run_attack, stored_attack


@pytest.fixture
def short_autoattack(monkeypatch):
    """Fewer steps of AutoAttack, which takes minutes."""
    package = pytest.importorskip("pyautoattack")

    class Short(package.AutoAttack):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.apgd.n_iter = self.apgd.n_iter_orig = 15
            self.apgd_targeted.n_iter = self.apgd_targeted.n_iter_orig = 15
            self.fab.n_iter = 5
            self.square.n_queries = 20

    monkeypatch.setattr(package, "AutoAttack", Short)


def linf_distances(model, images):
    """Closed form: smallest gap of the logits over the l1 norm of the weights' difference."""
    weight, logits = model[0].weight.detach().flatten(1), model(images).detach()
    top = logits.argmax(dim=1)
    gaps = logits.gather(1, top[:, None]) - logits
    sizes = (weight[top][:, None] - weight[None]).abs().sum(dim=2)
    return (gaps / sizes).scatter(1, top[:, None], torch.inf).amin(dim=1)


@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize("classes", [2, 3, 4, 12])
@pytest.mark.parametrize("attack", ["pgd_margin", "autoattack"])
def test_strong_attacks_find_what_is_within_eps_and_nothing_else(make_linear, grey_images, attack, classes):
    model = make_linear(classes)
    distance = linf_distances(model, grey_images)
    eps = float(distance.median()) * 1.01
    labels = model(grey_images).argmax(dim=1)
    result = run_attack(model, grey_images, labels, attack, preset="at_eps", eps=eps)
    within = distance <= eps
    assert not (result.success & ~within).any()
    missed = int((within & ~result.success).sum())
    assert missed == 0 if classes != 3 or attack == "pgd_margin" else missed <= 1  # three classes have no targeted APGD
    assert (result.linf[result.success] <= eps + 1e-6).all()


@pytest.mark.parametrize("attack", ["fgsm", "pgd_ce", "random_search"])
def test_other_attacks_succeed_within_eps_only(make_linear, grey_images, attack):
    model = make_linear(2)
    distance = linf_distances(model, grey_images)
    eps = float(distance.sort().values[8]) * 1.001
    labels = model(grey_images).argmax(dim=1)
    success = run_attack(model, grey_images, labels, attack, preset="at_eps", eps=eps).success
    assert not (success & (distance > eps)).any()
    assert success[distance < 0.5 * eps].all()
    if attack != "random_search":
        assert torch.equal(success, distance <= eps)


@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize("attack", ATTACKS_AT_EPS)
def test_the_seed_decides(make_net, grey_images, attack):
    net, images = make_net(2).float(), grey_images[:4].float()
    labels = net(images).argmax(dim=1)
    before = torch.random.get_rng_state()
    first, again, other = (
        run_attack(net, images, labels, attack, preset="at_eps", eps=0.3, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.adversarial, again.adversarial)
    if attack not in ("fgsm", "autoattack"):  # nothing is random, or success comes before the random part
        assert not torch.equal(first.adversarial, other.adversarial)


@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize("attack", ATTACKS_AT_EPS)
def test_no_gradient_is_no_success_and_nan_is_an_error(constant_model, nan_model, grey_images, attack):
    images, labels = grey_images.float(), torch.zeros(12, dtype=torch.int64)
    result = run_attack(constant_model, images, labels, attack, preset="at_eps", eps=0.3)
    assert not result.success.any()
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        run_attack(nan_model, images, labels, attack, preset="at_eps", eps=0.3)


def test_autoattack_works_on_survivors(make_linear, grey_images, monkeypatch):
    package = pytest.importorskip("pyautoattack")
    seen = []

    class Recording(package.AutoAttack):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            for name in ("apgd", "apgd_targeted", "fab", "square"):
                monkeypatch.setattr(getattr(self, name), "perturb", self.record(name))

        def record(self, name):
            def perturb(images, labels):
                seen.append((name, len(images)))
                return (images + 1).clamp(0, 1) if name == "apgd_targeted" else images

            return perturb

    monkeypatch.setattr(package, "AutoAttack", Recording)
    model = make_linear(4)
    labels = model(grey_images).argmax(dim=1)
    left = int((model(torch.ones_like(grey_images)).argmax(dim=1) == labels).sum())
    assert left < 12
    run_attack(model, grey_images, labels, "autoattack", preset="at_eps", eps=1.0)
    expected = [("apgd", 12), ("apgd_targeted", 12), ("fab", left), ("square", left)]
    assert seen == expected[: 4 if left else 2]


def test_autoattack_without_its_package_names_the_extra(make_linear, grey_images, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    model = make_linear(2)
    labels = model(grey_images).argmax(dim=1)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "skreg\[autoattack\]"'):
        run_attack(model, grey_images, labels, "autoattack", preset="at_eps", eps=0.1)


def test_results_are_kept_image_by_image(make_linear, grey_images, tmp_path):
    model = make_linear(2)
    labels = model(grey_images).argmax(dim=1)
    file = tmp_path / "a.safetensors"
    options = {"preset": "at_eps", "eps": 0.01, "batch_size": 5}
    few = stored_attack(file, model, grey_images[:5], labels[:5], "pgd_ce", **options)
    stored = stored_attack(file, model, grey_images, labels, "pgd_ce", **options)
    assert torch.equal(stored.linf[:5], few.linf)
    whole = stored_attack(tmp_path / "b.safetensors", model, grey_images, labels, "pgd_ce", **options)
    assert torch.equal(stored.linf, whole.linf)


def test_eps_is_required_and_names_are_listed(make_linear, grey_images):
    labels = torch.zeros(12, dtype=torch.int64)
    with pytest.raises(ValueError, match='preset "at_eps" attacks within a fixed radius: pass eps'):
        run_attack(make_linear(2), grey_images, labels, "pgd_ce", preset="at_eps")
    with pytest.raises(
        ValueError, match="must be one of 'fgsm', 'pgd_ce', 'pgd_margin', 'random_search', 'autoattack'"
    ):
        run_attack(make_linear(2), grey_images, labels, "cw", preset="at_eps", eps=0.1)
