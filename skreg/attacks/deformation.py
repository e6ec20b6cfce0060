"""ADef: small deformations of the image, one first-order step after another (arXiv 1804.07729)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Deformation:
    """The options of the algorithm; see `skreg.attacks.ADef`, which checks them."""

    steps: int = 100
    smooth: float = 1.0
    candidates: int = 10
    overshoot: float = 1.02

    @torch.enable_grad()
    def run(
        self, forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, target: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Deform images until the model no longer sees their labels, or until it sees `target`.

        An image is worked on for as long as it is not adversarial and its field changes.

        Args:
            forward: maps images (N, C, H, W) to logits (N, K), with a gradient.
            images: floating point (N, C, H, W).
            labels: int64 (N,), the classes to leave; not read where there is a target.
            target: int64 (N,), the classes to reach.

        Returns:
            The deformed images, and their fields (N, 2, H, W), float64, in pixels: x (to the right), then y (down).
            Pixel s of a deformed image is the image at s + overshoot * field(s), interpolated.
        """
        fields = torch.zeros(len(images), 2, *images.shape[2:], dtype=torch.float64, device=images.device)
        deformed = images.detach().clone()
        if len(images) == 0:
            return deformed, fields
        with torch.no_grad():
            candidates = self._candidates(forward(deformed), target)
        remaining = torch.arange(len(images), device=images.device)
        for _ in range(self.steps):
            x = deformed[remaining].requires_grad_(True)
            logits = forward(x)
            top = logits.argmax(dim=1)
            alive = top == labels[remaining] if target is None else top != target[remaining]
            if not bool(alive.any()):
                break
            # In a targeted run the class that has to be beaten is the highest one now.
            rivals = labels[remaining] if target is None else top
            step = self._smallest_step(logits, x, rivals, candidates[remaining], fields[remaining])
            alive &= step.flatten(1).any(dim=1)  # nothing is random: an image that stays once stays for good
            remaining = remaining[alive]
            fields[remaining] += step[alive]
            deformed[remaining] = warp(images[remaining], self.overshoot * fields[remaining])
        return deformed, fields

    def _candidates(self, logits: Tensor, target: Tensor | None) -> Tensor:
        """The classes (N, K) that an image may be deformed into, fixed for the run."""
        if target is not None:
            return target[:, None]
        return logits.topk(min(self.candidates, logits.shape[1]), dim=1).indices[:, 1:]

    def _smallest_step(
        self, logits: Tensor, images: Tensor, rivals: Tensor, candidates: Tensor, fields: Tensor
    ) -> Tensor:
        """The step (N, 2, H, W) whose sum with the field so far has the smallest l2 norm; zeros where there is none."""
        slopes = derivatives(images.detach().double())
        rival = logits.gather(1, rivals[:, None])[:, 0]
        smallest = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
        best = torch.zeros_like(fields)
        for rank in range(candidates.shape[1]):
            gap = logits.gather(1, candidates[:, rank : rank + 1])[:, 0] - rival
            (gradient,) = torch.autograd.grad(gap.sum(), images, retain_graph=True)
            once = gaussian_blur((gradient.double()[:, None] * slopes).sum(dim=2), self.smooth)
            size = once.square().flatten(1).sum(dim=1)
            step = gaussian_blur(once, self.smooth) * (-gap.detach().double() / size)[:, None, None, None]
            norm = torch.linalg.vector_norm((fields + step).flatten(1), dim=1)
            better = (size > 0) & (norm < smallest)
            smallest = torch.where(better, norm, smallest)
            best = torch.where(better[:, None, None, None], step, best)
        return best


def derivatives(images: Tensor) -> Tensor:
    """Central differences, one-sided at the border: (N, 2, C, H, W), along x (to the right), then y (down)."""
    along = [torch.gradient(images, dim=d)[0] if images.shape[d] > 1 else torch.zeros_like(images) for d in (3, 2)]
    return torch.stack(along, dim=1)


def gaussian_blur(values: Tensor, deviation: float) -> Tensor:
    """Gaussian of `deviation` pixels, cut at 4 deviations, over the last two of the four dimensions of `values`.

    Beyond the border the values are mirrored with the edge pixel repeated, which keeps the filter its own
    adjoint: the algorithm needs that. `torch.nn.functional.pad` has no such mode.
    """
    if deviation == 0:
        return values
    radius = int(4 * deviation + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=values.dtype, device=values.device)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = kernel / kernel.sum()
    for dim in (2, 3):
        size = values.shape[dim]
        index = torch.arange(-radius, size + radius, device=values.device) % (2 * size)
        padded = values.index_select(dim, torch.where(index < size, index, 2 * size - 1 - index))
        n, c, h, w = padded.shape
        shape = (1, 1, -1, 1) if dim == 2 else (1, 1, 1, -1)
        blurred = F.conv2d(padded.reshape(n * c, 1, h, w), kernel.reshape(shape))
        values = blurred.reshape(n, c, *blurred.shape[2:])
    return values


def warp(images: Tensor, fields: Tensor) -> Tensor:
    """Sample each image (N, C, H, W) bilinearly at s + field(s), coordinates clipped to the image."""
    n, c, h, w = images.shape
    y, x = torch.meshgrid(
        torch.arange(h, dtype=fields.dtype, device=fields.device),
        torch.arange(w, dtype=fields.dtype, device=fields.device),
        indexing="ij",
    )
    x, y = (x + fields[:, 0]).clamp(0, w - 1), (y + fields[:, 1]).clamp(0, h - 1)
    left, top = x.floor(), y.floor()
    right_share, bottom_share = (x - left)[:, None], (y - top)[:, None]
    left, top = left.long(), top.long()
    right, bottom = (left + 1).clamp(max=w - 1), (top + 1).clamp(max=h - 1)
    flat = images.to(fields.dtype).flatten(2)

    def at(row: Tensor, column: Tensor) -> Tensor:
        index = (row * w + column).reshape(n, 1, h * w).expand(n, c, h * w)
        return flat.gather(2, index).reshape(n, c, h, w)

    upper = at(top, left) * (1 - right_share) + at(top, right) * right_share
    lower = at(bottom, left) * (1 - right_share) + at(bottom, right) * right_share
    return (upper * (1 - bottom_share) + lower * bottom_share).to(images.dtype)
