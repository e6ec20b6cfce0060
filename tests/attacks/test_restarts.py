"""Restarts: whom they run on, and that they only ever improve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skreg.attacks import pgd
from skreg.attacks.objectives import kl_divergence

Batch = Callable[..., tuple[Tensor, Tensor]]


class Bumpy(nn.Module):
    """Has many local optima, so that runs from different starts end in different ones."""

    def forward(self, images: Tensor) -> Tensor:
        bumps = torch.sin(40 * images).flatten(1).mean(1)
        return torch.stack([0.9 - bumps, bumps - 0.9], dim=1)


def test_one_run_is_one_forward_pass_a_step(linear: Any, batch: Batch) -> None:
    model = linear(2)
    images, labels = batch(6)
    pgd(model, images, labels, eps=0.1, steps=5)
    assert model.rows == [6] * 5


def test_restarts_run_on_survivors_only(linear: Any, batch: Batch) -> None:
    model = linear(2)
    images, _ = batch(6)
    labels = model(images).argmax(1)
    # Two images are beyond reach, the others within it: on a linear model the first run settles which.
    eps = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    model.rows.clear()
    found = pgd(model, images, labels, eps=eps, steps=4, restarts=3)
    assert (model(found).argmax(1) == labels).tolist() == [True, False, False, True, False, False]
    model.rows.pop()
    assert model.rows == [6] * (4 + 1) + [2] * (4 + 1) * 2


def test_restarts_stop_when_nothing_survives(linear: Any, batch: Batch) -> None:
    model = linear(2)
    images, _ = batch(3)
    pgd(model, images, 1 - model(images).argmax(1), eps=0.01, steps=2, restarts=5)
    assert model.rows == [3] + [3] * (2 + 1)


@pytest.mark.parametrize(
    ("objective", "targeted"),
    [("cross_entropy", False), ("cross_entropy", True), ("margin", False), ("margin", True), ("kl", False)],
)
def test_restarts_keep_the_best(batch: Batch, objective: Any, targeted: bool) -> None:
    images, _ = batch(32)
    labels = torch.zeros(32, dtype=torch.int64)
    values, successes = [], []
    for restarts in (1, 2, 4, 8):
        found = pgd(
            Bumpy(),
            images,
            labels,
            eps=0.2,
            steps=3,
            restarts=restarts,
            objective=objective,
            random_start="uniform",
            target=1 - labels if targeted else None,
            generator=torch.Generator().manual_seed(0),
        )
        logits = Bumpy()(found)
        successes.append(logits.argmax(1) == 1)
        # Cross-entropy and margin grow with the second logit, and fall with it for the target.
        values.append(kl_divergence(Bumpy()(images), logits) if objective == "kl" else logits[:, 1])
    for fewer, more in zip(range(3), range(1, 4), strict=True):
        assert bool((successes[more] >= successes[fewer]).all())
        survived = ~successes[more]
        assert bool((values[more][survived] >= values[fewer][survived] - 1e-6).all())
    assert bool((values[-1] > values[0] + 1e-3).any()), "the restarts must have found something better"
