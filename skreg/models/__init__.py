"""The nets of the paper (appendix): they map float images in [0, 1] to logits and normalise inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from skreg.models.nets import resnet18_cifar, resnet50_restricted_imagenet, two_conv
from skreg.models.normalize import Normalize

__all__ = ["NETS", "Normalize", "build", "resnet18_cifar", "resnet50_restricted_imagenet", "two_conv"]

NETS: dict[str, Callable[..., nn.Module]] = {
    "two_conv": two_conv,
    "resnet18_cifar": resnet18_cifar,
    "resnet50_restricted_imagenet": resnet50_restricted_imagenet,
}


def build(
    name: str, *, classes: int, shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    """Build a net with fresh weights from torch's global generator.

    Args:
        name: one of `NETS`.
        classes: number of classes, the width of the logits.
        shape: channels, height, width of an image.
        mean: mean of each channel, pixels in [0, 1].
        std: standard deviation of each channel, pixels in [0, 1].

    Returns:
        module from float N x C x H x W in [0, 1] to logits N x classes.

    Raises:
        ValueError: unknown name, or arguments with which this net cannot be built.

    Example:
        >>> net = build("two_conv", classes=3, shape=(1, 8, 8), mean=(0.5,), std=(0.25,))
        >>> net.fc2
        Linear(in_features=1024, out_features=3, bias=True)
    """
    if name not in NETS:
        raise ValueError(f"net: expected one of {', '.join(NETS)}, found {name!r}")
    return NETS[name](classes=classes, shape=shape, mean=mean, std=std)
