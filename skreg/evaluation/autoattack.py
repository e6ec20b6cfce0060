"""AutoAttack of Croce and Hein (arXiv 2003.01690), version "standard", through the package pyautoattack."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skreg._extras import require
from skreg.evaluation.search import misclassified

TARGETS = 9  # classes that the targeted attacks try, where there are so many
LEAST_CLASSES = 4  # of the targeted DLR loss, which compares the four highest logits


def autoattack(forward: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Run APGD with cross-entropy, targeted APGD, targeted FAB and Square, each on the survivors of those before it.

    The options are the package's. Its own chain is not used: it expects ten classes, and prints. With fewer classes
    each other class is a target, and with fewer than four there is no targeted APGD, whose loss needs four. The
    package computes in float32. Its seed is drawn from torch's default generator.

    Args:
        forward: maps images to logits; in the mode wanted, its parameters frozen.
        images: correctly classified images, N C H W in [0, 1].
        labels: their classes, N.
        eps: linf radius.

    Returns:
        Candidates, N C H W.

    Raises:
        ModuleNotFoundError: pyautoattack is missing; names the extra.
    """
    package = require("pyautoattack", "autoattack")
    seed = int(torch.randint(2**31, ()))
    suite = package.AutoAttack(_Float32(forward, images.dtype), device=images.device, eps=eps, seed=seed)
    with torch.no_grad():
        classes = forward(images[:1]).shape[1]
    suite.apgd.loss = "ce"
    suite.fab.targeted = True
    suite.fab.n_target_classes = suite.apgd_targeted.n_target_classes = min(TARGETS, classes - 1)
    chain = [suite.apgd, suite.apgd_targeted, suite.fab, suite.square]
    if classes < LEAST_CLASSES:
        chain.remove(suite.apgd_targeted)

    points = images.clone()
    survivors = torch.arange(len(images), device=images.device)
    for attack in chain:
        if not len(survivors):
            break
        attack.seed = seed
        with torch.no_grad():
            found = attack.perturb(images[survivors].float(), labels[survivors])
        points[survivors] = found.to(images.dtype)
        survivors = survivors[~misclassified(forward, points[survivors], labels[survivors])]
    return points


class _Float32(nn.Module):
    """A model of another dtype, which the package may hand float32 images."""

    def __init__(self, forward: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = forward
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images.to(self.dtype))
        return logits.float()
