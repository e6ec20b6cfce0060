"""The l2 attack of Carlini and Wagner (arXiv 1608.04644), as Foolbox 1.8 and 2.x ran it by default."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from skreg.evaluation.search import Forward, per_image

SEARCH_STEPS = 5  # values of the constant
ITERATIONS = 1000  # steps of Adam a constant
CHECK_EVERY = 100  # after so many, an image stops that has not improved
IMPROVEMENT = 0.9999
LEARNING_RATE = 5e-3
FIRST_CONSTANT = 1e-2
CONSTANT_GROWTH = 10  # while no adversarial is found
SHRINK = 0.999999  # keeps arctanh finite at the bounds
BETA1, BETA2, ADAM_TINY = 0.9, 0.999, 1e-7


@dataclass
class _Best:
    """The closest adversarial of each image so far."""

    points: Tensor  # (N, C, H, W)
    distances: Tensor  # (N,), squared l2

    def update(self, index: Tensor, points: Tensor, distances: Tensor) -> None:
        closer = distances < self.distances[index]
        self.points[index[closer]] = points[closer]
        self.distances[index[closer]] = distances[closer]


def carlini_wagner(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
    """Minimise |x' - x|^2 + c * max(0, logit of the label - highest other logit), and search for the smallest c.

    Adam works on arctanh of the image, so that x' stays within [0, 1]. Each image has its own c and its own end: every
    100 steps those leave the batch whose loss fell by less than 0.01%. Of all points visited the closest
    adversarial is returned. Arguments and result as in `skreg.evaluation.search.fgsm`.
    """
    best = _Best(images.clone(), torch.full((len(images),), torch.inf, device=images.device, dtype=images.dtype))
    constants = torch.full_like(best.distances, FIRST_CONSTANT)
    low, high = torch.zeros_like(constants), torch.full_like(constants, torch.inf)
    for _ in range(SEARCH_STEPS):
        found = _descend(forward, images, labels, constants, best)
        high, low = torch.where(found, constants, high), torch.where(found, low, constants)
        constants = torch.where(high.isinf(), constants * CONSTANT_GROWTH, (low + high) / 2)
    return best.points


def _descend(forward: Forward, images: Tensor, labels: Tensor, constants: Tensor, best: _Best) -> Tensor:
    """Run Adam once for each image with its constant (N), and return whether it met an adversarial (N, bool)."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    remaining = torch.arange(len(images), device=images.device)
    origin, start = images, torch.arctanh((2 * images - 1) * SHRINK)
    moved, first, second = (torch.zeros_like(images) for _ in range(3))
    previous = torch.full_like(constants, torch.inf)
    for iteration in range(ITERATIONS):
        if not len(remaining):
            break
        points = ((start + moved).tanh() + 1) / 2
        loss, gradient, adversarial, distance = _loss(forward, points, origin, labels[remaining], constants[remaining])
        found[remaining[adversarial]] = True
        best.update(remaining[adversarial], points[adversarial], distance[adversarial])

        gradient = gradient * 2 * points * (1 - points)  # the derivative of (tanh + 1) / 2
        first = BETA1 * first + (1 - BETA1) * gradient
        second = BETA2 * second + (1 - BETA2) * gradient.square()
        size = (second / (1 - BETA2 ** (iteration + 1))).sqrt() + ADAM_TINY
        moved = moved - LEARNING_RATE * (first / (1 - BETA1 ** (iteration + 1))) / size

        if iteration % CHECK_EVERY == 0:
            alive = loss <= IMPROVEMENT * previous
            if not bool(alive.all()):
                remaining, origin, start, loss = (each[alive] for each in (remaining, origin, start, loss))
                moved, first, second = (each[alive] for each in (moved, first, second))
            previous = loss
    return found


def _loss(
    forward: Forward, points: Tensor, images: Tensor, labels: Tensor, constants: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss (N), its gradient by the point (N C H W), whether it is adversarial (N), its squared distance (N)."""
    leaf = points.detach().requires_grad_(True)
    logits = forward(leaf)
    label = labels[:, None]
    lead = logits.gather(1, label)[:, 0] - logits.scatter(1, label, -torch.inf).amax(dim=1)
    excess = constants * lead.clamp(min=0)
    (gradient,) = torch.autograd.grad(excess.sum(), leaf)
    change = points - images
    distance = change.square().flatten(1).sum(dim=1)
    # Where the lead is exactly 0 the gradient of the clamp is 1 in PyTorch; the attack wants none.
    gradient = gradient * per_image(lead > 0, images) + 2 * change
    return (distance + excess).detach(), gradient, logits.detach().argmax(dim=1) != labels, distance
