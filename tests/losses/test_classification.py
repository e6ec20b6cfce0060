"""The four losses against their formulas, written out in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from skreg.attacks import FGSM, PGD, pgd
from skreg.losses import LOSSES, LossOutput, adversarial, logit_pairing, trades, vanilla
from skreg.models import Normalize

ATTACK = PGD(0.1, steps=3)


def make_net(*, dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 4, 2),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(16, 3),
        )


def make_batch(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 2, 3, 3, generator=generator), torch.randint(3, (count,), generator=generator)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    rows = torch.arange(len(labels))
    return -(logits.exp() / logits.exp().sum(1, keepdim=True))[rows, labels].log().mean()


def divergence(first: Tensor, second: Tensor) -> Tensor:
    p = first.exp() / first.exp().sum(1, keepdim=True)
    q = second.exp() / second.exp().sum(1, keepdim=True)
    return (p * (p / q).log()).sum() / len(first)


def formula(name: str, clean: Tensor, perturbed: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """The paper's section 3."""
    if name == "V":
        return cross_entropy(clean, labels)
    if name == "T":
        return cross_entropy(clean, labels) + gamma * divergence(clean, perturbed)
    if name == "A":
        return cross_entropy(perturbed, labels)
    return cross_entropy(perturbed, labels) + gamma * divergence(perturbed, clean)


@pytest.mark.parametrize("name", "VTAL")
@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.0])
def test_value_and_gradient(name: str, gamma: float) -> None:
    net = make_net().double().eval()
    images, labels = make_batch()
    images = images.double()
    output = LOSSES[name](net, images, labels, attack=ATTACK, gamma=gamma, generator=seeded())
    output.loss.backward()
    found = [parameter.grad.clone() for parameter in net.parameters()]

    objective = "kl" if name == "T" else "cross_entropy"
    perturbed = pgd(net, images, labels, eps=0.1, steps=3, objective=objective, generator=seeded())
    net.zero_grad()
    expected = formula(name, net(images), net(perturbed), labels, gamma)
    expected.backward()
    torch.testing.assert_close(output.loss, expected, rtol=1e-10, atol=1e-12)
    for one, parameter in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-8, atol=1e-12)

    assert not output.logits.requires_grad
    torch.testing.assert_close(output.logits, net(perturbed if name == "A" else images).detach())
    if name == "V":
        assert output.adversarial is None
    else:
        assert torch.equal(output.adversarial, perturbed)


def test_divergences_are_not_symmetric() -> None:
    """So that the test above can tell one direction from the other."""
    net = make_net().double().eval()
    images, _ = make_batch()
    clean, perturbed = net(images.double()), net(1 - images.double())
    assert abs(divergence(clean, perturbed) - divergence(perturbed, clean)) > 1e-6


@pytest.mark.parametrize("objective", ["cross_entropy", "margin", "kl"])
def test_the_loss_sets_the_objective(objective: Any) -> None:
    net = make_net().eval()
    images, labels = make_batch()
    attack = PGD(0.1, steps=3, objective=objective, random_start="uniform")
    for name, own in [("T", "kl"), ("A", "cross_entropy"), ("L", "cross_entropy")]:
        expected = pgd(net, images, labels, eps=0.1, steps=3, objective=own, random_start="uniform", generator=seeded())
        assert torch.equal(LOSSES[name](net, images, labels, attack=attack, generator=seeded()).adversarial, expected)


def test_vanilla_needs_no_attack() -> None:
    net = make_net().eval()
    images, labels = make_batch()
    output = vanilla(net, images, labels)
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(net(images), labels))
    assert isinstance(output, LossOutput)


def test_names() -> None:
    assert list(LOSSES.items()) == [("V", vanilla), ("T", trades), ("A", adversarial), ("L", logit_pairing)]


class Modes(nn.Module):
    """Records the mode in which it is called, and whether its parameters are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_net()
        self.calls: list[tuple[str, str]] = []

    def forward(self, images: Tensor) -> Tensor:
        frozen = not self.net[0].weight.requires_grad
        self.calls.append(("train" if self.training else "eval", "frozen" if frozen else "learns"))
        result: Tensor = self.net(images)
        return result


@pytest.mark.parametrize(
    ("name", "attack_calls", "loss_calls"), [("V", 0, 1), ("T", 1 + 3, 2), ("A", 3, 1), ("L", 3, 2)]
)
@pytest.mark.parametrize("mode", ["eval", "train", "keep"])
@pytest.mark.parametrize("own", ["eval", "train"])
def test_modes_and_forward_passes(name: str, attack_calls: int, loss_calls: int, mode: Any, own: str) -> None:
    model = Modes()
    model.train(own == "train")
    LOSSES[name](model, *make_batch(), attack=PGD(0.1, steps=3, mode=mode))
    during = own if mode == "keep" else mode
    assert model.calls == [(during, "frozen")] * attack_calls + [(own, "learns")] * loss_calls
    # Batch norm has counted the forward passes of the loss, not those of the attack.
    assert int(model.net[1].num_batches_tracked) == (loss_calls if own == "train" else 0)


@pytest.mark.parametrize("name", "VTAL")
def test_autocast(name: str) -> None:
    net = make_net().eval()
    images, labels = make_batch()
    expected = LOSSES[name](net, images, labels, attack=ATTACK, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = LOSSES[name](net, images, labels, attack=ATTACK, generator=seeded())
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert output.logits.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    torch.testing.assert_close(output.loss, expected.loss, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", "TAL")
def test_memory_format_is_kept(name: str) -> None:
    net = make_net()
    seen: list[bool] = []
    net.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    images, labels = make_batch()
    LOSSES[name](net, images.to(memory_format=torch.channels_last), labels, attack=ATTACK)
    assert seen
    assert all(seen)


@pytest.mark.parametrize("name", "VTAL")
def test_empty_batch(name: str) -> None:
    net = make_net().eval()
    output = LOSSES[name](net, *make_batch(0), attack=ATTACK)
    output.loss.backward()
    assert output.loss.item() == 0
    assert output.logits.shape == (0, 3)
    assert all(not p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("name", "VTAL")
def test_no_gradient_wanted(name: str) -> None:
    net = make_net().eval()
    images, labels = make_batch()
    expected = LOSSES[name](net, images, labels, attack=ATTACK, generator=seeded()).loss
    for caller in (torch.no_grad, torch.inference_mode):
        with caller():
            loss = LOSSES[name](net, images, labels, attack=ATTACK, generator=seeded()).loss
        assert not loss.requires_grad
        assert torch.equal(loss, expected)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("name", "VTAL")
@pytest.mark.parametrize("find_unused", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*broadcast_buffers:FutureWarning")
def test_distributed_model(name: str, find_unused: bool) -> None:
    """The attack passes the wrapper by, and the loss goes through it, where gradients are reduced."""
    images, labels = make_batch()
    plain = make_net()
    wrapped = DistributedDataParallel(make_net(), broadcast_buffers=False, find_unused_parameters=find_unused)
    through: list[int] = []
    wrapped.register_forward_pre_hook(lambda *_: through.append(1))
    for _ in range(2):
        for model in (plain, wrapped):
            LOSSES[name](model, images, labels, attack=ATTACK, generator=seeded()).loss.backward()
    assert len(through) == 2 * (2 if name in "TL" else 1)
    for one, other in zip(plain.parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


Change = dict[str, Any]


@pytest.mark.parametrize("name", "VTAL")
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"model": torch.sin}, TypeError, r"model must be a torch\.nn\.Module"),
        ({"images": torch.zeros(6, 2, 3, 3, dtype=torch.uint8)}, TypeError, r"divide uint8 pixels by 255"),
        ({"images": torch.zeros(6, 18)}, ValueError, r"images must have shape \(N, C, H, W\)"),
        ({"labels": torch.zeros(6)}, TypeError, r"labels must be int64"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, ValueError, r"labels must have shape \(6,\)"),
        ({"labels": torch.full((6,), 3)}, ValueError, r"labels must lie in \[0, 3\).*found 3 to 3"),
    ],
)
def test_bad_arguments(name: str, change: Change, error: type[Exception], match: str) -> None:
    images, labels = make_batch()
    arguments: Change = {"model": make_net(), "images": images, "labels": labels, **change}
    with pytest.raises(error, match=match):
        LOSSES[name](**arguments, attack=ATTACK)


@pytest.mark.parametrize("name", "TAL")
@pytest.mark.parametrize("attack", [None, FGSM(0.1), "pgd"])
def test_attack_must_be_pgd(name: str, attack: Any) -> None:
    with pytest.raises(TypeError, match=r"attack must be a skreg\.attacks\.PGD, found "):
        LOSSES[name](make_net(), *make_batch(), attack=attack)


def test_trades_needs_a_start() -> None:
    with pytest.raises(ValueError, match="needs a random start"):
        trades(make_net(), *make_batch(), attack=PGD(0.1, random_start=False))


@pytest.mark.parametrize("loss", [trades, logit_pairing])
@pytest.mark.parametrize("gamma", [-1.0, float("nan")])
def test_gamma(loss: Callable[..., LossOutput], gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma must be finite and at least 0"):
        loss(make_net(), *make_batch(), attack=ATTACK, gamma=gamma)


@pytest.mark.parametrize("name", "VTAL")
def test_nan_weights_are_named(name: str) -> None:
    net = make_net()
    nn.init.constant_(net[5].bias, float("nan"))
    with pytest.raises(FloatingPointError, match="the model returned NaN logits"):
        LOSSES[name](net, *make_batch(), attack=ATTACK)


def make_modeless_net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            Normalize([0.5, 0.5], [0.2, 0.3]), nn.Conv2d(2, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
        )


def test_one_clean_pass_serves_attack_and_loss_where_modes_do_not_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = make_batch()
    clean_passes: list[bool] = []
    forward = nn.Sequential.forward

    def count(net: nn.Sequential, input: Tensor) -> Tensor:
        clean_passes.extend([net.training] * torch.equal(input, images))
        return forward(net, input)

    monkeypatch.setattr(nn.Sequential, "forward", count)
    net = make_modeless_net()
    once = trades(net, images, labels, attack=ATTACK, generator=seeded())
    assert clean_passes == [True]
    gradients = torch.autograd.grad(once.loss, list(net.parameters()))

    # As it is done for nets that cannot be told to be modeless; a hook may do anything.
    net.register_forward_hook(lambda module, inputs, output: None)
    clean_passes.clear()
    twice = trades(net, images, labels, attack=ATTACK, generator=seeded())
    assert clean_passes == [False, True]
    assert torch.equal(once.loss, twice.loss)
    assert torch.equal(once.adversarial, twice.adversarial)
    for one, other in zip(gradients, torch.autograd.grad(twice.loss, list(net.parameters())), strict=True):
        assert torch.equal(one, other)


def test_batch_norms_statistics_move_after_the_attack() -> None:
    """The attack in eval mode sees what the step found, not what its clean pass left."""
    net, images, labels = make_net(), *make_batch()
    expected = pgd(net, images, labels, eps=0.1, steps=3, objective="kl", generator=seeded())
    found = trades(net.train(), images, labels, attack=ATTACK, generator=seeded()).adversarial
    assert torch.equal(found, expected)
