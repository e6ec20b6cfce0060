"""The three architectures. All take the same arguments; `skreg.models.build` documents them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from skreg._extras import require
from skreg.models.normalize import Normalize


def two_conv(*, classes: int, shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Two 5x5 convolutions of 32 and 64 channels, each halved by max-pooling, and two fully connected layers.

    The paper's net for MNIST and Fashion-MNIST (appendix), with the sizes of Madry et al. (arXiv 1706.06083).

    Raises:
        ValueError: height or width not a multiple of 4, or the arguments disagree.

    Example:
        >>> import torch
        >>> net = two_conv(classes=3, shape=(1, 8, 8), mean=(0.5,), std=(0.25,))
        >>> net(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """
    normalize = _checked_normalize(classes, shape, mean, std)
    channels, height, width = shape
    # ReLU after pooling gives the same values and the same gradients, and works on a quarter of them.
    if height % 4 or width % 4:
        raise ValueError(f"shape: expected height and width divisible by 4, found {height} x {width}")
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            normalize=normalize,
            conv1=nn.Conv2d(channels, 32, kernel_size=5, padding=2),
            pool1=nn.MaxPool2d(2),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, kernel_size=5, padding=2),
            pool2=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(64 * (height // 4) * (width // 4), 1024),
            relu3=nn.ReLU(),
            fc2=nn.Linear(1024, classes),
        )
    )


def resnet18_cifar(
    *, classes: int, shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    """torchvision's ResNet-18 (arXiv 1512.03385) with a 3x3 stem of stride 1 and no max-pooling.

    Raises:
        ValueError: the arguments disagree.
        ModuleNotFoundError: torchvision is not installed.

    Example:
        >>> net = resnet18_cifar(classes=10, shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> net.resnet.conv1
        Conv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    """
    normalize = _checked_normalize(classes, shape, mean, std)
    resnet = require("torchvision.models", "lab").resnet18(num_classes=classes)
    resnet.conv1 = _stem(shape[0], kernel_size=3, stride=1)
    resnet.maxpool = nn.Identity()
    return nn.Sequential(OrderedDict[str, nn.Module](normalize=normalize, resnet=resnet))


def resnet50_restricted_imagenet(
    *, classes: int, shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    """torchvision's ResNet-50 (arXiv 1512.03385) with fresh weights; the paper starts from pretrained ones.

    Raises:
        ValueError: the arguments disagree.
        ModuleNotFoundError: torchvision is not installed.

    Example:
        >>> net = resnet50_restricted_imagenet(classes=9, shape=(3, 224, 224), mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> net.resnet.fc
        Linear(in_features=2048, out_features=9, bias=True)
    """
    normalize = _checked_normalize(classes, shape, mean, std)
    resnet = require("torchvision.models", "lab").resnet50(num_classes=classes)
    if shape[0] != resnet.conv1.in_channels:
        resnet.conv1 = _stem(shape[0], kernel_size=7, stride=2)
    return nn.Sequential(OrderedDict[str, nn.Module](normalize=normalize, resnet=resnet))


def _stem(channels: int, kernel_size: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, 64, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own stem
    return conv


def _checked_normalize(
    classes: int, shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> Normalize:
    if classes < 2:
        raise ValueError(f"classes: expected at least 2, found {classes}")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape: expected positive (channels, height, width), found {tuple(shape)}")
    if len(mean) != shape[0] or len(std) != shape[0]:
        raise ValueError(f"mean, std: expected {shape[0]} values each, one a channel, found {len(mean)} and {len(std)}")
    return Normalize(mean, std)
