"""The objectives against their definitions, written out in float64."""

from __future__ import annotations

import pytest
import torch

from skreg.attacks.objectives import evaluate_objective, kl_divergence, margin, widen


def test_kl_divergence() -> None:
    logits, other = torch.randn(2, 5, 4, dtype=torch.float64).mul(3).unbind()
    p, q = logits.exp(), other.exp()
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    expected = (p * (p / q).log()).sum(1)
    torch.testing.assert_close(kl_divergence(logits, other), expected)
    torch.testing.assert_close(kl_divergence(logits.float(), other.float()), expected.float(), rtol=1e-4, atol=1e-5)


def test_kl_divergence_of_certain_predictions_is_finite() -> None:
    logits = torch.tensor([[1000.0, 0.0], [0.0, 0.0]], requires_grad=True)
    value = kl_divergence(logits, logits.detach().flip(1))
    value.sum().backward()
    assert value.tolist() == [1000.0, 0.0]
    assert bool(logits.grad.isfinite().all())


def test_margin() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0], [-1.0, -4.0, -2.0]])
    assert margin(logits, torch.tensor([1, 2, 0])).tolist() == [-2.0, 2.0, -1.0]


def test_cross_entropy() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    expected = torch.stack([row.exp().sum().log() - row[label] for row, label in zip(logits, labels, strict=True)])
    torch.testing.assert_close(evaluate_objective("cross_entropy", logits, labels, None), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    logits = torch.randn(5, 4).to(dtype)
    assert widen(logits).dtype == torch.float32
    assert torch.equal(
        margin(widen(logits), torch.zeros(5, dtype=torch.int64)).to(dtype),
        margin(logits.float(), torch.zeros(5, dtype=torch.int64)).to(dtype),
    )
    assert kl_divergence(logits, logits).dtype == torch.float32
    assert widen(logits.double()).dtype == torch.float64
