"""The random numbers that an attack starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Start = Literal["uniform", "gaussian"]


@dataclass(frozen=True)
class BatchPart:
    """A generator for the images of a batch that lie on this process: `start` to `start` + N of `batch`.

    It draws for the whole batch and keeps the numbers of these images. So processes that share a batch, with
    generators in the same state, start its images where one process would, and move their generators on alike.

    Example:
        >>> images = torch.zeros(4, 1, 2, 2)
        >>> whole = draw("uniform", images, torch.Generator().manual_seed(0))
        >>> last = draw("uniform", images[3:], BatchPart(torch.Generator().manual_seed(0), start=3, batch=4))
        >>> torch.equal(last, whole[3:])
        True
    """

    generator: torch.Generator
    start: int
    batch: int


Generator = torch.Generator | BatchPart


def draw(start: Start, images: Tensor, generator: Generator | None) -> Tensor:
    """Draw numbers of the shape, dtype and device of `images` (N, C, H, W): uniform in [0, 1), or standard normal.

    Raises:
        ValueError: `images` are more than the rest of the batch.
    """
    shape, part = images.shape, slice(None)
    if isinstance(generator, BatchPart):
        shape = torch.Size((generator.batch, *images.shape[1:]))
        part = slice(generator.start, generator.start + len(images))
        if part.stop > generator.batch:
            raise ValueError(f"generator: {generator.batch} images in the batch, found {part.start} to {part.stop}")
        generator = generator.generator
    device = images.device if generator is None else generator.device
    sample = torch.randn if start == "gaussian" else torch.rand
    return sample(shape, generator=generator, device=device, dtype=images.dtype)[part].to(images.device)
