"""A search that sees logits only, to find models whose gradients mislead."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skreg.attacks.objectives import margin

QUERIES = 300
FIRST_SHARE = 0.3  # of the image's pixels in the first square; it shrinks to one pixel


def random_search(forward: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Move random squares of the image to its distance eps for as long as that raises the margin of another class.

    The idea of Square Attack (Andriushchenko et al., arXiv 1912.00049): start from vertical stripes of +-eps; a step
    sets one square of each image, of one sign a channel, and is kept where it helps. With a small budget: it shall not
    be strong, but show when gradients are worse than none. Draws from torch's default generator.

    Args, result: as `skreg.evaluation.autoattack.autoattack`, without its error.
    """
    n, c, h, w = images.shape
    best = _shifted(images, _signs((n, c, 1, w), images).expand_as(images), eps)
    value = _margins(forward, best, labels)
    for query in range(1, QUERIES):
        active = (value <= 0).nonzero()[:, 0]  # at 0 the two classes tie, and nothing is decided
        if not len(active):
            break
        side = max(1, round((FIRST_SHARE * h * w) ** 0.5 * (1 - query / QUERIES)))
        inside = _squares(len(active), h, w, side, images.device)
        signs = _signs((len(active), c, 1, 1), images)
        clean = images[active]
        proposed = torch.where(inside, _shifted(clean, signs.expand_as(clean), eps), best[active])
        raised = _margins(forward, proposed, labels[active])
        better = raised > value[active]
        best[active[better]] = proposed[better]
        value[active[better]] = raised[better]
    return best


def _margins(forward: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return margin(forward(images), labels)


def _signs(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.randint(0, 2, shape, device=like.device).to(like.dtype) * 2 - 1


def _shifted(images: Tensor, signs: Tensor, eps: float) -> Tensor:
    return (images + eps * signs).clamp(0, 1)


def _squares(n: int, h: int, w: int, side: int, device: torch.device) -> Tensor:
    """A square for each image, as a mask (N, 1, H, W); cut off where the image is smaller."""
    tall, wide = min(side, h), min(side, w)
    top = torch.randint(0, h - tall + 1, (n, 1, 1, 1), device=device)
    left = torch.randint(0, w - wide + 1, (n, 1, 1, 1), device=device)
    y = torch.arange(h, device=device)[:, None]
    x = torch.arange(w, device=device)
    return (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
