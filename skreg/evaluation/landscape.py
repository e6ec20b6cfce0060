"""What a model looks like to an attack that climbs its loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skreg.attacks import attack_mode
from skreg.evaluation.attacks import finite_forward, minibatches
from skreg.evaluation.proportion import Proportion
from skreg.evaluation.search import loss_gradient


@dataclass(frozen=True)
class Landscape:
    """Gradients and logits at the images themselves; see the attributes of the same names of `Evaluation`."""

    zero_gradients: Proportion
    logit_margin: float
    logit_scale: float


def measure_landscape(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Landscape:
    """Count gradients that are exactly zero, and measure how wide the logits are.

    Args:
        model: maps images to logits; left as it was found.
        images: N C H W in [0, 1], at least one.
        labels: their classes, N.
        batch_size: images looked at together.

    Raises:
        ValueError, TypeError: the model does not return logits of two classes or more.
        FloatingPointError: they are not finite.
    """
    zero, margins, scales = 0, 0.0, 0.0
    with attack_mode(model, "eval"), torch.enable_grad():
        forward = finite_forward(model)
        for x, y in minibatches(images, labels, batch_size):
            gradient, logits = loss_gradient(forward, x, y)
            zero += int((~gradient.flatten(1).any(dim=1)).sum())
            highest = logits.double().topk(2, dim=1).values
            margins += float((highest[:, 0] - highest[:, 1]).sum())
            scales += float(logits.double().std(dim=1, correction=0).sum())
    return Landscape(Proportion(zero, len(images)), margins / len(images), scales / len(images))
