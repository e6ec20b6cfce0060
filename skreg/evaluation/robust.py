"""Accuracy under attack at a fixed radius."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skreg.attacks import FGSM, PGD, attack_mode
from skreg.evaluation.attacks import check_inputs, finite_forward, minibatches
from skreg.evaluation.proportion import Proportion
from skreg.evaluation.search import misclassified


def robust_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[FGSM | PGD],
    *,
    batch_size: int = 128,
    seed: int = 0,
) -> Proportion:
    """Share of the images that the model classifies rightly, before and after every one of `attacks`.

    Each attack is run on the images that survived those before it only. The model is left as it was found.

    Args:
        model: maps float images to logits (N K).
        images: N C H W, floating point in [0, 1], on the model's device.
        labels: N, int64 classes.
        attacks: what the images have to survive; none for the clean accuracy.
        batch_size: images attacked at once.
        seed: of the attacks' random starts.

    Raises:
        TypeError, ValueError: images and labels are not as above.
        FloatingPointError: the model's logits are not finite.
    """
    check_inputs(model, images, labels)
    generator = torch.Generator(device=images.device).manual_seed(seed)
    survivors = 0
    with attack_mode(model, "eval"):
        forward = finite_forward(model)
        for x, y in minibatches(images, labels, batch_size):
            right = ~misclassified(forward, x, y)
            x, y = x[right], y[right]
            for attack in attacks:
                right = ~misclassified(forward, attack(forward, x, y, generator=generator), y)
                x, y = x[right], y[right]
            survivors += len(x)
    return Proportion(survivors, len(images))
