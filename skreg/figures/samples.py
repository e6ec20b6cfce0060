"""Which test images a figure shows."""

from __future__ import annotations

import torch
from torch import Tensor


def first_of_each_class(images: Tensor, labels: Tensor, classes: int, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` images of each class, class by class, and their labels.

    Args:
        images, labels: N C H W, N.

    Returns:
        `classes` x `count` images; fewer of a class that has fewer.

    Raises:
        ValueError: a class has no image.
    """
    members = [(labels == label).nonzero()[:count, 0] for label in range(classes)]
    empty = [label for label, found in enumerate(members) if not len(found)]
    if empty:
        raise ValueError(f"images: expected some of each of {classes} classes, found none of {empty}")
    index = torch.cat(members)
    return images[index], labels[index]
