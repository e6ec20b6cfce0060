"""Normalisation as the first layer of a net, so that attacks see pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Subtracts `mean` and divides by `std`, channel by channel; both are saved with the net.

    Raises:
        ValueError: mean and std differ in length, or a std is not positive.

    Example:
        >>> Normalize(mean=(0.5,), std=(0.25,))(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor
    modeless = True  # computes the same in eval and in training mode; see skreg.attacks.mode

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean or not all(value > 0 for value in std):
            raise ValueError(f"expected a mean and a positive std for each channel, found mean {mean} and std {std}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise float images N x C x H x W.

        Raises:
            TypeError: the images are not floating point.
            ValueError: the images have not four dimensions, or another number of channels.
        """
        if not images.is_floating_point():
            raise TypeError(f"images: expected floating point in [0, 1], found {images.dtype}; divide bytes by 255")
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ValueError(f"images: expected N x {len(self.mean)} x H x W, found shape {tuple(images.shape)}")
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
