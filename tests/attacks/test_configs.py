"""PGD and FGSM as values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from skreg.attacks import FGSM, PGD, pgd

Batch = Callable[..., tuple[Tensor, Tensor]]


def test_configured_attacks(linear: Any, batch: Batch) -> None:
    model = linear(2)
    images, labels = batch()
    attack = PGD(0.2, steps=3, step_size=0.05, restarts=2, objective="margin")
    seeds = (torch.Generator().manual_seed(1), torch.Generator().manual_seed(1))
    assert torch.equal(
        attack(model, images, labels, generator=seeds[0]),
        pgd(
            model,
            images,
            labels,
            eps=0.2,
            steps=3,
            step_size=0.05,
            restarts=2,
            objective="margin",
            generator=seeds[1],
        ),
    )
    target = 1 - labels
    assert torch.equal(FGSM(0.2)(model, images, labels, target=target), model.worst(images, labels, 0.2))
    assert torch.equal(PGD(0.2)(model, images, labels, target=labels), model.worst(images, target, 0.2))
    assert attack == PGD(0.2, steps=3, step_size=0.05, restarts=2, objective="margin")
    assert PGD(0.3).steps == 10


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: PGD(-1), ValueError, "eps must be finite"),
        (lambda: PGD(torch.tensor(0.1)), TypeError, "eps must be a number, found Tensor"),
        (lambda: PGD(0.1, steps=0), ValueError, "steps must be at least 1"),
        (lambda: PGD(0.1, step_size=0), ValueError, "step_size must be finite and above 0"),
        (lambda: PGD(0.1, objective="kl", random_start=False), ValueError, "needs a random start"),
        (lambda: PGD(0.1, mode="off"), ValueError, "mode must be one of"),
        (lambda: PGD(0.1, bounds=(0, float("inf"))), ValueError, "bounds must be finite"),
        (lambda: FGSM(float("inf")), ValueError, "eps must be finite"),
        (lambda: FGSM(0.1, mode="off"), ValueError, "mode must be one of"),
        (lambda: FGSM(0.1, bounds=(1, 0)), ValueError, "bounds must be finite"),
    ],
)
def test_configured_attacks_are_checked_when_made(
    make: Callable[[], object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        make()
