"""What is known of each data set before a file is opened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about one data set.

    Attributes:
        name: the name that `skreg.data.load` takes.
        classes: class names; the position is the label.
        shape: channels, height, width of one image.
        mean: mean of each channel over the training set, pixels in [0, 1].
        std: standard deviation of each channel over the training set, pixels in [0, 1].
        eps: linf bound of the perturbations used in training, pixels in [0, 1] before normalisation.
        net: name of the default net, one of `skreg.models.NETS`.

    Example:
        >>> DATASETS["fashion-mnist"].shape, DATASETS["fashion-mnist"].eps
        ((1, 28, 28), 0.1)
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    eps: float
    net: str


_ALL = (
    # The paper states no eps for the four shapes: 0.1 is our choice. Mean and std are those of our drawings.
    DatasetInfo(
        name="four-shapes",
        classes=("circle", "star", "square", "triangle"),
        shape=(1, 28, 28),
        mean=(0.7524,),
        std=(0.4173,),
        eps=0.1,
        net="two_conv",
    ),
    DatasetInfo(
        name="mnist",
        classes=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
        shape=(1, 28, 28),
        mean=(0.1307,),
        std=(0.3081,),
        eps=0.3,
        net="two_conv",
    ),
    DatasetInfo(
        name="fashion-mnist",
        classes=(
            "T-shirt/top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        shape=(1, 28, 28),
        mean=(0.2860,),
        std=(0.3530,),
        eps=0.1,
        net="two_conv",
    ),
    DatasetInfo(
        name="cifar10",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        shape=(3, 32, 32),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        eps=0.03,
        net="resnet18_cifar",
    ),
    DatasetInfo(
        name="restricted-imagenet",
        classes=("dog", "cat", "frog", "turtle", "bird", "primate", "fish", "crab", "insect"),
        shape=(3, 224, 224),
        mean=(0.4717, 0.4499, 0.3837),
        std=(0.2600, 0.2516, 0.2575),
        eps=0.005,
        net="resnet50_restricted_imagenet",
    ),
)

DATASETS: dict[str, DatasetInfo] = {info.name: info for info in _ALL}
