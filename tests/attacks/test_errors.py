"""Bad arguments and bad models are named, with what was expected and what was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skreg.attacks import pgd

Batch = Callable[..., tuple[Tensor, Tensor]]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"images": "x"}, TypeError, r"images must be a tensor, found str"),
        (
            {"images": torch.zeros(8, 2, 3, 3, dtype=torch.uint8)},
            TypeError,
            r"found torch\.uint8; divide uint8",
        ),
        ({"images": torch.zeros(8, 2, 3, 3).to_sparse()}, TypeError, r"images must be a dense tensor, found layout"),
        ({"images": torch.zeros(8, 18)}, ValueError, r"shape \(N, C, H, W\), found \(8, 18\)"),
        (
            {"images": torch.full((8, 2, 3, 3), 1.0000001)},
            ValueError,
            r"from 1\.00000\d+ to 1\.00000\d+; clamp",
        ),
        ({"images": torch.full((8, 2, 3, 3), -0.5)}, ValueError, r"from -0\.5 to -0\.5"),
        ({"images": torch.full((8, 2, 3, 3), float("nan"))}, ValueError, r"images hold NaN"),
        ({"images": torch.full((8, 2, 3, 3), float("inf"))}, ValueError, r"from inf to inf"),
        ({"clean_logits": torch.zeros(8, 3)}, ValueError, r'clean_logits are for objective "kl" alone'),
        (
            {"clean_logits": torch.zeros(7, 3), "objective": "kl"},
            ValueError,
            r"clean_logits: expected \(8, K\), found \(7, 3\)",
        ),
        ({"labels": [1]}, TypeError, r"labels must be a tensor, found list"),
        (
            {"labels": torch.zeros(8, dtype=torch.int32)},
            TypeError,
            r"labels must be int64 .* found torch\.int32",
        ),
        (
            {"labels": torch.zeros(7, dtype=torch.int64)},
            ValueError,
            r"labels must have shape \(8,\).*found \(7,\)",
        ),
        ({"labels": torch.full((8,), 2)}, ValueError, r"labels must lie in \[0, 2\).*found 2 to 2"),
        ({"labels": torch.full((8,), -1)}, ValueError, r"labels must lie in \[0, 2\).*found -1 to -1"),
        (
            {"labels": torch.zeros(8, dtype=torch.int64, device="meta")},
            ValueError,
            r"labels are on meta but images",
        ),
        ({"target": torch.full((8,), 9)}, ValueError, r"target must lie in \[0, 2\)"),
        ({"target": torch.zeros(2, dtype=torch.int64)}, ValueError, r"target must have shape \(8,\)"),
        ({"target": torch.zeros(8, dtype=torch.int64), "objective": "kl"}, ValueError, r"takes no target"),
        ({"eps": -0.1}, ValueError, r"eps must be finite and at least 0, found -0\.1"),
        ({"eps": float("nan")}, ValueError, r"eps must be finite"),
        ({"eps": "big"}, TypeError, r"eps must be a number, found str"),
        (
            {"eps": torch.tensor(0.1)},
            ValueError,
            r"eps must be a number or a tensor of shape \(8,\).*found shape \(\)",
        ),
        ({"eps": torch.full((8,), -0.1)}, ValueError, r"eps must be finite and at least 0 for every image"),
        ({"steps": 0}, ValueError, r"steps must be at least 1, found 0"),
        ({"steps": 1.5}, TypeError, r"steps must be an integer, found 1\.5"),
        ({"step_size": 0.0}, ValueError, r"step_size must be finite and above 0, found 0\.0"),
        ({"step_size": torch.zeros(8)}, ValueError, r"step_size must be finite and above 0 for every image"),
        ({"restarts": 0}, ValueError, r"restarts must be at least 1"),
        ({"restarts": 2, "random_start": False}, ValueError, r"restarts=2 need a random start"),
        (
            {"random_start": "normal"},
            ValueError,
            r"random_start must be one of True, False, 'uniform', 'gaussian'",
        ),
        ({"random_start": 1}, ValueError, r"random_start must be one of .*found 1"),
        (
            {"random_start": False, "objective": "kl"},
            ValueError,
            r"at the images themselves its gradient is zero",
        ),
        ({"objective": "dlr"}, ValueError, r"one of 'cross_entropy', 'kl', 'margin', found 'dlr'"),
        ({"mode": "test"}, ValueError, r"mode must be one of 'eval', 'train', 'keep'"),
        ({"bounds": (1.0, 0.0)}, ValueError, r"bounds must be finite with the lowest value first"),
        ({"bounds": 1.0}, ValueError, r"bounds must be a pair"),
        ({"model": torch.sin}, TypeError, r"model must be a torch\.nn\.Module"),
    ],
)
def test_bad_arguments(linear: Any, batch: Batch, change: dict[str, Any], error: type[Exception], match: str) -> None:
    images, labels = batch(8)
    arguments: dict[str, Any] = {"model": linear(2), "images": images, "labels": labels, "eps": 0.1, **change}
    with pytest.raises(error, match=match):
        pgd(arguments.pop("model"), arguments.pop("images"), arguments.pop("labels"), **arguments)


class Returns(nn.Module):
    """Returns what a function makes of the images."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images)


@pytest.mark.parametrize(
    ("function", "error", "match"),
    [
        (lambda x: (x, x), TypeError, r"must return a tensor of logits, found tuple"),
        (lambda x: x.flatten(1).long(), TypeError, r"floating point logits, found torch\.int64"),
        (
            lambda x: x.flatten(1)[:, :1],
            ValueError,
            r"logits of shape \(8, K\).* K >= 2 classes, found \(8, 1\)",
        ),
        (lambda x: x.flatten(1)[:4], ValueError, r"found \(4, 18\)"),
        (lambda x: x, ValueError, r"found \(8, 2, 3, 3\)"),
        (lambda x: x.flatten(1).detach(), ValueError, r"no gradient with respect to the images"),
        (lambda x: x.flatten(1) * float("nan"), FloatingPointError, r"NaN logits during the attack"),
        (lambda x: (x * 0).sqrt().flatten(1), FloatingPointError, r"gradient .* is NaN although"),
    ],
)
@pytest.mark.parametrize("restarts", [1, 2])
def test_bad_models(
    batch: Batch, function: Callable[[Tensor], Any], error: type[Exception], match: str, restarts: int
) -> None:
    images, labels = batch(8)
    with pytest.raises(error, match=match):
        pgd(Returns(function), images, labels, eps=0.1, steps=2, restarts=restarts)


def test_nan_in_a_later_step_is_found(batch: Batch) -> None:
    images, labels = batch(8)
    calls: list[int] = []

    def sometimes(images: Tensor) -> Tensor:
        calls.append(1)
        return images.flatten(1) * (float("nan") if len(calls) == 3 else 1.0)

    with pytest.raises(FloatingPointError, match="NaN logits"):
        pgd(Returns(sometimes), images, labels, eps=0.1, steps=5)
