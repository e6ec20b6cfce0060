"""Mini-batches and a validation split of images that stay on their device as uint8."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from skreg.data.files import fixed_permutation


def batches(
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    *,
    shuffle: bool,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over a data set, a batch at a time; the last batch may be smaller.

    Images are converted a batch at a time, where they lie: the set takes a quarter of the memory.

    Args:
        images: uint8 N x C x H x W, on any device.
        labels: int64 N, on the same device.
        batch_size: images a batch, at least 1.
        shuffle: visit the images in a random order instead of theirs.
        generator: CPU generator of that order, so the same on all devices; None: torch's global one.

    Returns:
        iterator of (images float32 in [0, 1], labels int64), each B x C x H x W and B.

    Raises:
        ValueError: wrong dtype, shape, device or batch size; a generator that is not on the CPU.

    Example:
        >>> images, labels = torch.full((5, 1, 2, 2), 255, dtype=torch.uint8), torch.arange(5)
        >>> for some, their_labels in batches(images, labels, batch_size=3, shuffle=False):
        ...     float(some.max()), their_labels.tolist()
        (1.0, [0, 1, 2])
        (1.0, [3, 4])
    """
    check_examples(images, labels)
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(f"generator: expected one on the CPU, found one on {generator.device}")
    # Checked and drawn here, not in the iterator: errors come at the call, and the generator moves on once.
    order = torch.randperm(len(images), generator=generator).to(images.device) if shuffle else None
    return _iterate(images, labels, batch_size, order)


def _iterate(images: Tensor, labels: Tensor, batch_size: int, order: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(images), batch_size):
        chosen = slice(start, start + batch_size) if order is None else order[start : start + batch_size]
        yield images[chosen].float().div_(255), labels[chosen]


def split_validation(
    images: Tensor, labels: Tensor, fraction: float, seed: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Hold out a part of a training set, the same share of every class (rounded to whole images).

    Args:
        images: uint8 N x C x H x W.
        labels: int64 N.
        fraction: share to hold out, between 0 and 1.
        seed: the same seed holds out the same images on every machine.

    Returns:
        (images, labels) to train on and (images, labels) to validate on, disjoint, in their original order.

    Raises:
        ValueError: wrong dtype, shape or device; a fraction that leaves one of the parts empty.

    Example:
        >>> images, labels = torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1] * 4)
        >>> train, validation = split_validation(images, labels, fraction=0.25, seed=0)
        >>> len(train[0]), sorted(validation[1].tolist())
        (6, [0, 1])
    """
    check_examples(images, labels)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: expected a share between 0 and 1, found {fraction}")
    order = torch.from_numpy(fixed_permutation(len(labels), seed))
    shuffled = labels.cpu()[order]
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in set(shuffled.tolist()):
        members = order[shuffled == label]
        held_out[members[: round(fraction * len(members))]] = True
    if held_out.all() or not held_out.any():
        raise ValueError(
            f"fraction: {fraction} of the classes of {len(labels)} images leaves one of the two parts empty"
        )
    held_out = held_out.to(images.device)
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def check_examples(images: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless images are uint8 N x C x H x W, labels int64 N, and both on one device."""
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"images: expected uint8 N x C x H x W, found {images.dtype} of shape {tuple(images.shape)}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels: expected int64 of shape ({len(images)},), found {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if labels.device != images.device:
        raise ValueError(f"labels: expected them on {images.device} like the images, found {labels.device}")
