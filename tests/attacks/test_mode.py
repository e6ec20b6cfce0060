"""attack_mode hands a model back exactly as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skreg.attacks import attack_mode


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything that could be left behind, with the identity of every tensor."""
    return {
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [(id(p.grad), None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        "values": [(id(t), t.clone()) for t in (*model.parameters(), *model.buffers())],
        "versions": [t._version for t in (*model.parameters(), *model.buffers())],
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for key in ("training", "requires_grad", "versions"):
        assert before[key] == after[key], key
    for key in ("grad", "values"):
        for (identity, value), (identity_after, value_after) in zip(before[key], after[key], strict=True):
            assert identity == identity_after, key
            assert (value is None and value_after is None) or torch.equal(value, value_after), key


@pytest.fixture
def used(net: nn.Module) -> nn.Module:
    """A net in the middle of fine-tuning: one part frozen and in eval mode, one with a gradient."""
    net.train()
    net.norm.eval()
    net.convolution.weight.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    return net


@pytest.mark.parametrize("mode", ["eval", "train", "keep"])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_restores_everything(used: nn.Module, mode: Any, error: type[BaseException] | None) -> None:
    images = torch.rand(4, 2, 3, 3)
    before = state_of(used)

    def use() -> None:
        with attack_mode(used, mode):
            assert not any(parameter.requires_grad for parameter in used.parameters())
            for _ in range(2):
                used(images)
            if error is not None:
                raise error

    if error is None:
        use()
    else:
        with pytest.raises(error):
            use()
    assert_same(before, state_of(used))


@pytest.mark.parametrize(
    ("mode", "dropout", "norm"), [("eval", False, False), ("train", True, True), ("keep", True, False)]
)
def test_sets_the_mode(used: nn.Module, mode: Any, dropout: bool, norm: bool) -> None:
    with attack_mode(used, mode):
        assert (used.dropout.training, used.norm.training) == (dropout, norm)


def test_training_mode_uses_batch_statistics(net: nn.Module) -> None:
    images = torch.rand(4, 2, 3, 3)
    net.dropout.p = 0.0
    net.train()
    expected = net(images)
    net.norm.reset_running_stats()
    net.eval()
    with attack_mode(net, "train"):
        assert torch.equal(net(images), expected)
        assert int(net.norm.num_batches_tracked) == 1
    assert int(net.norm.num_batches_tracked) == 0


def test_a_graph_from_before_stays_valid(net: nn.Module) -> None:
    images = torch.rand(4, 2, 3, 3)
    net.train()
    loss = net(images).sum()
    with attack_mode(net, "keep"):
        net(images)
    loss.backward()
    assert net.convolution.weight.grad is not None


def test_modules_that_override_train() -> None:
    class Merged(nn.Module):
        """Changes itself with its mode, as adapters do that merge their weights for evaluation."""

        merged = False

        def train(self, mode: bool = True) -> Merged:
            self.merged = not mode
            return super().train(mode)

    class Frozen(nn.BatchNorm2d):
        """Refuses to train, as frozen batch norm layers do."""

        def train(self, mode: bool = True) -> Frozen:
            return super().train(False)

    model = nn.Sequential(Merged(), Frozen(2), Frozen(2), nn.Dropout()).train()
    model[1].training = True
    with attack_mode(model, "eval"):
        assert model[0].merged
        assert not model[1].training
    assert not model[0].merged
    assert [module.training for module in model] == [True, True, False, True]


def test_shared_modules_and_buffers() -> None:
    norm = nn.BatchNorm2d(2)
    other = nn.BatchNorm2d(2)
    other.running_mean = norm.running_mean
    model = nn.Sequential(norm, nn.Sequential(norm, other)).train()
    norm.eval()
    before = state_of(model)
    with attack_mode(model, "train"):
        assert other.running_mean is norm.running_mean
        model(torch.rand(4, 2, 3, 3))
    assert_same(before, state_of(model))
    assert other.running_mean is norm.running_mean


def test_errors(net: nn.Module) -> None:
    with (
        pytest.raises(ValueError, match=r"mode must be one of 'eval', 'train', 'keep', found 'evil'"),
        attack_mode(
            net,
            "evil",  # type: ignore[arg-type]
        ),
    ):
        pass
    with (
        pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, found function"),
        attack_mode(
            lambda x: x  # type: ignore[arg-type]
        ),
    ):
        pass
