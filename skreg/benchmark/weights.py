"""What is measured on: the conv weights of known nets, as shapes filled with random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Shape = tuple[int, ...]


def _repeat(count: int, *shape: int) -> tuple[Shape, ...]:
    return (shape,) * count


# The weights that the regularizer takes by default: kernels with more than one element.
WEIGHT_SETS: dict[str, tuple[Shape, ...]] = {
    # The paper's net for MNIST (appendix).
    "two_conv": ((32, 1, 5, 5), (64, 32, 5, 5)),
    # ResNet-18 with a 3x3 stem (arXiv 1512.03385).
    "resnet18_cifar": (
        (64, 3, 3, 3),
        *_repeat(4, 64, 64, 3, 3),
        (128, 64, 3, 3),
        *_repeat(3, 128, 128, 3, 3),
        (256, 128, 3, 3),
        *_repeat(3, 256, 256, 3, 3),
        (512, 256, 3, 3),
        *_repeat(3, 512, 512, 3, 3),
    ),
    # ResNet-50 for ImageNet (arXiv 1512.03385): one spatial convolution a block.
    "resnet50": (
        (64, 3, 7, 7),
        *_repeat(3, 64, 64, 3, 3),
        *_repeat(4, 128, 128, 3, 3),
        *_repeat(6, 256, 256, 3, 3),
        *_repeat(3, 512, 512, 3, 3),
    ),
    # Wide ResNet of depth 34 and width 10 (arXiv 1605.07146), the usual net of adversarial training.
    "wrn_34_10": (
        (16, 3, 3, 3),
        (160, 16, 3, 3),
        *_repeat(9, 160, 160, 3, 3),
        (320, 160, 3, 3),
        *_repeat(9, 320, 320, 3, 3),
        (640, 320, 3, 3),
        *_repeat(9, 640, 640, 3, 3),
    ),
}

# Four equal 3x3 layers each, from the size of the 2-conv net (52 k weights) to that of a large one (50 M).
GROWING_SETS: dict[str, tuple[Shape, ...]] = {
    f"4 x {channels} x {channels} x 3 x 3": _repeat(4, channels, channels, 3, 3)
    for channels in (38, 76, 152, 304, 608, 1178)
}


def make_weights(
    shapes: Sequence[Shape],
    *,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> list[Tensor]:
    """Random weights as after Kaiming initialisation: normal, of variance 2 / fan-in.

    Args:
        shapes: conv weights ``(A, B, height, width)``.

    Returns:
        A tensor a shape, the same for the same seed whatever dtype, layout and device.
    """
    generator = torch.Generator().manual_seed(seed)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    weights = []
    for shape in shapes:
        weight = torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
        weights.append(weight.to(device, dtype).contiguous(memory_format=memory_format))
    return weights
