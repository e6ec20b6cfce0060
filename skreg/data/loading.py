"""One function that loads any of the data sets."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import Tensor

from skreg.data.cifar10 import load_cifar10
from skreg.data.idx import load_idx_dataset
from skreg.data.info import DATASETS
from skreg.data.restricted_imagenet import load_restricted_imagenet
from skreg.data.shapes import load_four_shapes

_Loader = Callable[[str, str, "str | os.PathLike[str] | None", "int | None"], tuple[Tensor, Tensor]]

_LOADERS: dict[str, _Loader] = {
    "four-shapes": load_four_shapes,
    "mnist": load_idx_dataset,
    "fashion-mnist": load_idx_dataset,
    "cifar10": load_cifar10,
    "restricted-imagenet": load_restricted_imagenet,
}
_SPLITS = ("train", "test")


def load(
    name: str, split: str, root: str | os.PathLike[str] | None = None, limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """Load a split of a data set into memory.

    Args:
        name: one of `DATASETS`.
        split: "train" or "test"; Restricted ImageNet's test split is ImageNet's validation folder.
        root: folder with the files, in the layout that torchvision or the original archive makes, or flat.
            None: the folder in the variable SKREG_DATA, then, for Fashion-MNIST, that of its Debian package.
            Four-shapes is drawn and needs none.
        limit: keep at most this many images: the first ones of a fixed random permutation, so the classes
            keep their shares up to chance, and a larger limit holds every image of a smaller one. None keeps
            all images, in file order.

    Returns:
        images uint8 N x C x H x W and labels int64 N, on the CPU.

    Raises:
        ValueError: unknown name or split, or a limit under 1.
        DatasetNotFoundError: a file is missing; says where it was looked for and how to get it.
        DatasetFormatError: a file is damaged or is not what it should be.
        MemoryError: the images do not fit this machine's memory (Restricted ImageNet).

    Example:
        >>> images, labels = load("four-shapes", "test", limit=8)
        >>> images.shape, images.dtype, labels.shape
        (torch.Size([8, 1, 28, 28]), torch.uint8, torch.Size([8]))
    """
    if name not in DATASETS:
        raise ValueError(f"name: expected one of {', '.join(DATASETS)}, found {name!r}")
    if split not in _SPLITS:
        raise ValueError(f"split: expected one of {', '.join(_SPLITS)}, found {split!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1 image, or None for all, found {limit}")
    return _LOADERS[name](name, split, root, limit)
