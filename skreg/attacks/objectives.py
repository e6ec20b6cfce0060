"""What a gradient attack maximises, as one value for each image."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Objective = Literal["cross_entropy", "kl", "margin"]


def widen(logits: Tensor) -> Tensor:
    """Return half precision logits as float32, where softmax keeps small probabilities; others unchanged."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def kl_divergence(logits: Tensor, other: Tensor) -> Tensor:
    """Return KL(softmax(logits) || softmax(other)) by row, at least in float32: (N, K), (N, K) -> (N,)."""
    return kl_of_logarithms(F.log_softmax(widen(logits), dim=1), F.log_softmax(widen(other), dim=1))


def kl_of_logarithms(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) of each row from logarithms of probabilities: (N, K), (N, K) -> (N,)."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return max over j != y of z_j, minus z_y; above 0 where another class wins: (N, K), (N,) -> (N,)."""
    index = labels.unsqueeze(1)
    others = logits.scatter(1, index, float("-inf"))
    return others.amax(dim=1) - logits.gather(1, index).squeeze(1)


def evaluate_objective(name: Objective, logits: Tensor, labels: Tensor, clean_probabilities: Tensor | None) -> Tensor:
    """Return the objective `name` of each image: (N, K), (N,), (N, K) or None -> (N,), in float32 or better.

    "kl" is KL(clean || adversarial) and needs the clean images' probabilities; the others need the labels.
    """
    logits = widen(logits)
    if name == "kl":
        assert clean_probabilities is not None
        # A probability that is 0 adds 0; its logarithm, which may be -inf, is not needed.
        return F.kl_div(F.log_softmax(logits, dim=1), clean_probabilities, reduction="none").sum(dim=1)
    if name == "margin":
        return margin(logits, labels)
    return F.cross_entropy(logits, labels, reduction="none")
