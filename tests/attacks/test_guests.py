"""An attack is a guest in the model, in the gradient mode and autocast around it, and with its images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skreg.attacks import fgsm, pgd

Batch = Callable[..., tuple[Tensor, Tensor]]


@pytest.mark.parametrize("mode", ["eval", "train", "keep"])
def test_leaves_nothing_behind(net: nn.Module, batch: Batch, mode: Any) -> None:
    images, labels = batch(classes=3)
    net.norm.eval()
    net.head.bias.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    pgd(net, images, labels, eps=0.1, steps=3, restarts=2, mode=mode)
    assert [module.training for module in net.modules()] == [True, True, False, True, True]
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["head.bias"]
    assert [name for name, p in net.named_parameters() if p.grad is not None] == ["head.weight"]
    assert torch.equal(net.head.weight.grad, torch.ones_like(net.head.weight))
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_attack_leaves_nothing_behind(net: nn.Module, batch: Batch, error: type[BaseException]) -> None:
    images, labels = batch(classes=3)
    calls = []

    def interrupt(*_: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise error

    net.train()
    net.norm.register_forward_hook(interrupt)
    with pytest.raises(error):
        pgd(net, images, labels, eps=0.1, mode="eval")
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert int(net.norm.num_batches_tracked) == 0


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("objective", ["cross_entropy", "kl"])
def test_works_in_any_gradient_mode(net: nn.Module, batch: Batch, caller: Any, mode: Any, objective: Any) -> None:
    net.dropout.p = 0.0
    images, labels = batch(classes=3)

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        return pgd(
            net,
            images,
            labels,
            eps=torch.full((len(images),), 0.1),
            steps=3,
            mode=mode,
            objective=objective,
            restarts=2,
            generator=torch.Generator().manual_seed(0),
        )

    expected = attack(images, labels)
    with caller():
        found = attack(images.clone(), labels.clone())
    assert torch.equal(found, expected)
    assert not found.is_inference()


class HalfPrecision(nn.Module):
    """Hands the images themselves to an operation that autocast casts, and keeps the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 2, 3)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.convolution(images).flatten(1)
        self.seen.append(logits.detach())
        return logits


@pytest.mark.parametrize("objective", ["cross_entropy", "margin", "kl"])
def test_autocast(batch: Batch, objective: Any) -> None:
    model = HalfPrecision()
    images, labels = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pgd(
            model,
            images,
            labels,
            eps=0.5,
            steps=4,
            step_size=0.1,
            objective=objective,
            random_start="uniform",
        )
    assert found.dtype == torch.float32
    assert all(logits.dtype == torch.bfloat16 for logits in model.seen)
    # Every step must see the images of that step, not a copy that autocast made of those before.
    assert all(not torch.equal(a, b) for a, b in zip(model.seen[:-1], model.seen[1:], strict=True))


def test_memory_format_is_kept(net: nn.Module, batch: Batch) -> None:
    images, labels = batch(classes=3)
    seen: list[bool] = []
    net.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    for restarts in (1, 2):
        found = pgd(net, images.to(memory_format=torch.channels_last), labels, eps=0.1, steps=2, restarts=restarts)
        assert found.is_contiguous(memory_format=torch.channels_last)
    assert all(seen[:4])
    assert torch.equal(fgsm(net, images[:, :, ::1].expand_as(images), labels, eps=0.0), images)


def test_inputs_that_require_grad_get_none(linear: Any, batch: Batch) -> None:
    images, labels = batch()
    images.requires_grad_()
    assert not pgd(linear(2), images, labels, eps=0.1).requires_grad
    assert images.grad is None
