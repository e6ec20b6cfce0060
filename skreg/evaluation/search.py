"""Searches for the smallest adversarial perturbation, as Foolbox 1.8 and 2.x ran them by default.

These are the searches behind the paper's Table 1. Foolbox 3 changed all of their defaults and dropped the
searches over eps, so they are written here, batched: every image has its own eps, and only images without an
adversarial so far are worked on.

Each search takes correctly classified images and returns the candidate it found for each of them, or some
point that fools nothing where it found none. The searches judge nothing: `skreg.evaluation.run_attack`
recomputes success from the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

Forward = Callable[[Tensor], Tensor]

FGSM_STEPS = 1000  # values of eps tried, evenly spaced up to 1
FGSM_REFINE = 20  # a hit within the first 20 values is refined with 20 finer ones
FGSM_TOGETHER = 32  # few images are tried at several eps at once, so that a forward pass has about so many points

PGD_EPS = 0.3  # where the exponential search starts
PGD_GROWTH = 1.5
PGD_SEARCH = 20  # values of eps in the exponential search, and again in the bisection
PGD_ITERATIONS = 40
PGD_STEP_RATIO = 0.01 / 0.3  # step size over eps

DEEPFOOL_STEPS = 100
DEEPFOOL_CANDIDATES = 10
DEEPFOOL_OVERSHOOT = 1.05
DEEPFOOL_TINY = 1e-8  # added to gradient norms
DEEPFOOL_TOGETHER = 16  # the gradients of all candidate classes are computed in one pass for up to so many images


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Reshape `values` (N) so that it broadcasts over `images` (N C H W)."""
    return values.reshape(-1, *([1] * (images.dim() - 1)))


def loss_gradient(forward: Forward, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of each image's cross-entropy with respect to the image (N C H W), and the logits (N K)."""
    images = images.detach().requires_grad_(True)
    logits = forward(images)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), images)
    return gradient, logits.detach()


def misclassified(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
    """Whether the highest logit of each image is not its label's (N, bool)."""
    with torch.no_grad():
        return forward(images).argmax(dim=1) != labels


def fgsm(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
    """Walk along the sign of one gradient and keep the first eps that fools the model.

    Args:
        forward: maps images to logits.
        images: correctly classified images, N C H W in [0, 1].
        labels: their classes, N.

    Returns:
        Candidates, N C H W.
    """
    gradient, _ = loss_gradient(forward, images, labels)
    direction = gradient.sign()
    coarse = torch.arange(1, FGSM_STEPS + 1, device=images.device, dtype=images.dtype) / FGSM_STEPS
    coarse = coarse.expand(len(images), -1)
    first = _first_hit(forward, images, labels, direction, coarse)

    best = torch.where(first < 0, 0, coarse.gather(1, first.clamp(min=0)[:, None])[:, 0])
    early = ((first >= 0) & (first < FGSM_REFINE)).nonzero()[:, 0]
    if len(early):
        fractions = torch.arange(1, FGSM_REFINE + 1, device=images.device, dtype=images.dtype) / FGSM_REFINE
        fine = best[early, None] * fractions
        refined = _first_hit(forward, images[early], labels[early], direction[early], fine)
        # The last of the finer values is the coarse hit itself, so -1 would pick the right one too.
        best[early] = fine.gather(1, (refined % FGSM_REFINE)[:, None])[:, 0]
    return _along(images, direction, best)


def _along(images: Tensor, direction: Tensor, eps: Tensor) -> Tensor:
    return (images + per_image(eps, images) * direction).clamp(0, 1)


def _first_hit(forward: Forward, images: Tensor, labels: Tensor, direction: Tensor, eps: Tensor) -> Tensor:
    """Index into each image's row of `eps` (N S) of the first misclassified point on its ray, or -1 (N)."""
    first = torch.full_like(labels, -1)
    remaining = direction.flatten(1).any(dim=1).nonzero()[:, 0]  # without a direction the image never changes
    begin = 0
    while begin < eps.shape[1] and len(remaining):
        tried = eps[remaining, begin : begin + max(1, FGSM_TOGETHER // len(remaining))]
        rows = remaining.repeat_interleave(tried.shape[1])
        points = _along(images[rows], direction[rows], tried.flatten())
        fooled = misclassified(forward, points, labels[rows]).reshape(tried.shape)
        hit = fooled.any(dim=1)
        first[remaining[hit]] = begin + fooled[hit].int().argmax(dim=1)
        remaining = remaining[~hit]
        begin += tried.shape[1]
    return first


def pgd(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
    """Grow eps until projected gradient ascent fools the model, then bisect it; keep the smallest linf norm.

    No random start, and an attempt ends at its first adversarial. Arguments and result as in `fgsm`.
    """
    best = images.clone()
    smallest = torch.full((len(images),), torch.inf, device=images.device, dtype=images.dtype)
    upper = torch.full_like(smallest, torch.inf)
    directions = loss_gradient(forward, images, labels)[0].sign()  # every attempt begins with this step

    def attempt(index: Tensor, eps: Tensor) -> Tensor:
        points, found = _pgd_attempt(forward, images[index], labels[index], directions[index], eps)
        norms = (points - images[index]).abs().flatten(1).amax(dim=1)
        better = found & (norms < smallest[index])
        smallest[index[better]] = norms[better]
        best[index[better]] = points[better]
        return found

    remaining = torch.arange(len(images), device=images.device)
    eps = PGD_EPS
    for _ in range(PGD_SEARCH):
        if not len(remaining):
            break
        found = attempt(remaining, torch.full_like(smallest[remaining], eps))
        upper[remaining[found]] = eps
        remaining = remaining[~found]
        if eps * PGD_STEP_RATIO >= 1:
            break  # each step already reaches a corner of [0, 1]: every larger eps would repeat this attempt
        eps *= PGD_GROWTH

    bisected = upper.isfinite().nonzero()[:, 0]
    if len(bisected):
        high, low = upper[bisected], torch.zeros_like(upper[bisected])
        for _ in range(PGD_SEARCH):
            middle = (high + low) / 2
            found = attempt(bisected, middle)
            high, low = torch.where(found, middle, high), torch.where(found, low, middle)
    return best


def _pgd_attempt(
    forward: Forward, images: Tensor, labels: Tensor, directions: Tensor, eps: Tensor
) -> tuple[Tensor, Tensor]:
    """One run of projected gradient ascent, an eps an image (N).

    Args:
        directions: signs of the gradients at the images themselves. The rest is as in `fgsm`.

    Returns:
        Where each image ended, N C H W, and whether it fools the model there, N, bool.
    """
    points, found = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    remaining = torch.arange(len(images), device=images.device)
    for _ in range(PGD_ITERATIONS):
        x, origin, radius = points[remaining], images[remaining], per_image(eps[remaining], images)
        step = PGD_STEP_RATIO * radius * directions
        moved = (origin + (x + step - origin).clamp(-radius, radius)).clamp(0, 1)
        # The attempt is deterministic, so an image that a step leaves where it is stays there.
        alive = (moved != x).flatten(1).any(dim=1)
        remaining = remaining[alive]
        points[remaining] = moved[alive]
        if not len(remaining):
            break
        gradient, logits = loss_gradient(forward, points[remaining], labels[remaining])
        fooled = logits.argmax(dim=1) != labels[remaining]
        found[remaining[fooled]] = True
        remaining, directions = remaining[~fooled], gradient[~fooled].sign()
    return points, found


def deepfool(
    forward: Forward,
    images: Tensor,
    labels: Tensor,
    *,
    norm: float,
    steps: int = DEEPFOOL_STEPS,
    overshoot: float = DEEPFOOL_OVERSHOOT,
    accumulate: bool = False,
    slack: float = 0.0,
) -> Tensor:
    """Step to the nearest linearised decision boundary until the model is fooled (arXiv 1511.04599).

    The candidate classes are the ten highest logits of the clean image. By default the overshoot of 5% is applied
    to every step, as in Foolbox 2, not to the accumulated perturbation, as in the DeepFool paper and Foolbox 3.

    Args:
        norm: 2 or inf, the norm in which "nearest" is measured.
        steps: most steps an image.
        overshoot: factor on a step or, with `accumulate`, on the sum of all steps.
        accumulate: go from the clean image by the sum of all steps, each time anew.
        slack: added to the distance to the boundary. The rest is as in `fgsm`.
    """
    points, total = images.clone(), torch.zeros_like(images)
    remaining = torch.arange(len(images), device=images.device)
    candidates, done = None, 0
    while done < steps and len(remaining):
        x = points[remaining].requires_grad_(True)
        logits = forward(x)
        if candidates is None:
            candidates = logits.topk(min(DEEPFOOL_CANDIDATES, logits.shape[1]), dim=1).indices[:, 1:]
        fooled = logits.argmax(dim=1) != labels[remaining]
        if fooled.any():
            # The others pass again by themselves: that costs less than the gradients of nine classes for those fooled.
            remaining = remaining[~fooled]
            continue
        step = _deepfool_step(logits, x, labels[remaining], candidates[remaining], norm, slack)
        if accumulate:
            total[remaining] += step
            moved = (images[remaining] + overshoot * total[remaining]).clamp(0, 1)
            alive = step.flatten(1).any(dim=1)
        else:
            moved = (x.detach() + overshoot * step).clamp(0, 1)
            alive = (moved != x).flatten(1).any(dim=1)
        remaining = remaining[alive]
        points[remaining] = moved[alive]
        done += 1
    return points


def _deepfool_step(logits: Tensor, x: Tensor, labels: Tensor, candidates: Tensor, norm: float, slack: float) -> Tensor:
    """Smallest step (N C H W) to the boundary with one of the `candidates` (N K), were the model linear.

    Args:
        logits: of `x`, with their graph.
        x: N C H W, requires a gradient.
    """
    true = logits.gather(1, labels[:, None])[:, 0]
    nearest = torch.full_like(true, torch.inf).detach()
    nearest_step = torch.zeros_like(x).detach()
    gaps = logits.gather(1, candidates) - true[:, None]
    for gap, gradient in zip(gaps.detach().unbind(1), _gradients(gaps, x), strict=True):
        size = gradient.flatten(1).norm(2 if norm == 2 else 1, dim=1) + DEEPFOOL_TINY
        distance = gap.abs() / size
        direction = gradient / per_image(size, x) if norm == 2 else gradient.sign()
        # Without slack a tie with the true class gives no distance to go.
        closer = (gap <= 0 if slack else gap < 0) & (distance < nearest)
        nearest_step = torch.where(per_image(closer, x), per_image(distance + slack, x) * direction, nearest_step)
        nearest = torch.where(closer, distance, nearest)
    return nearest_step


def _gradients(gaps: Tensor, x: Tensor) -> Iterable[Tensor]:
    """Gradient of each column of `gaps` (N K) with respect to `x`: K times N C H W, one after the other."""
    sums = gaps.sum(dim=0)
    if len(x) <= DEEPFOOL_TOGETHER:
        try:
            # Few images leave a processor idle, so that the classes are taken together. Many do not, and would need
            # the memory of K backward passes.
            every = torch.eye(len(sums), device=x.device, dtype=sums.dtype)
            return tuple(torch.autograd.grad(sums, x, every, retain_graph=True, is_grads_batched=True)[0])
        except RuntimeError:
            pass  # a layer whose backward pass cannot be batched; an error of any other kind comes again below
    return (torch.autograd.grad(each, x, retain_graph=True)[0] for each in sums)
