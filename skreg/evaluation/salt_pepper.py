"""Salt and pepper noise, the black-box attack of the paper, as Foolbox 1.8 and 2.x ran it by default."""

from __future__ import annotations

import torch
from torch import Tensor

from skreg.evaluation.search import Forward, misclassified, per_image

SHARES = 100  # shares of changed pixels tried in one repetition, evenly spaced up to the largest
REPETITIONS = 10
SLACK = 1.2  # the next repetition goes up to this multiple of the best share


def salt_pepper(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
    """Set more and more pixels to black or white, the same on all channels, until the model is fooled.

    Each repetition ends at its first adversarial that is closer (in l2) than the best so far, and the next one
    searches up to 1.2 times its share of pixels. Draws from torch's default generator. Arguments and result as in
    `skreg.evaluation.search.fgsm`.
    """
    best = images.clone()
    closest = torch.full((len(images),), torch.inf, device=images.device, dtype=images.dtype)
    largest = torch.ones_like(closest)
    n, _, h, w = images.shape
    shares = min(SHARES, h * w)
    for _ in range(REPETITIONS):
        remaining = torch.arange(n, device=images.device)
        limit = largest.clone()
        for step in range(1, shares + 1):
            if not len(remaining):
                break
            share = limit[remaining] * (step / shares)
            points = _noisy(images[remaining], share)
            distance = (points - images[remaining]).square().flatten(1).sum(dim=1)
            closer = (distance < closest[remaining]).nonzero()[:, 0]
            if not len(closer):
                continue
            hit = closer[misclassified(forward, points[closer], labels[remaining[closer]])]
            index = remaining[hit]
            best[index], closest[index], largest[index] = points[hit], distance[hit], SLACK * share[hit]
            alive = torch.ones_like(remaining, dtype=torch.bool)
            alive[hit] = False
            remaining = remaining[alive]
    return best


def _noisy(images: Tensor, share: Tensor) -> Tensor:
    """Images of which about `share` (N) of the pixels are black or white, half of them each."""
    n, _, h, w = images.shape
    draw = torch.rand(n, 1, h, w, device=images.device, dtype=images.dtype)
    half = per_image(share, images) / 2
    return images.masked_fill(draw >= 1 - half, 1.0).masked_fill(draw < half, 0.0)
