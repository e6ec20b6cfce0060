"""Restricted ImageNet: nine groups of ImageNet classes, read from a folder of JPEG files."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from torch import Tensor

from skreg._extras import require
from skreg.data.files import DatasetFormatError, not_found, search_folders, subset_indices
from skreg.data.info import DATASETS

_INFO = DATASETS["restricted-imagenet"]
_IMAGENET_CLASSES = 1000
# First and last ImageNet index of each class (Tsipras et al., arXiv 1805.12152).
_RANGES = {
    "dog": (151, 268),
    "cat": (281, 285),
    "frog": (30, 32),
    "turtle": (33, 37),
    "bird": (80, 100),
    "primate": (365, 382),
    "fish": (389, 397),
    "crab": (118, 121),
    "insect": (300, 319),
}
_FOLDERS = {"train": "train", "test": "val"}
_HOW_TO_GET = (
    "download ImageNet (ILSVRC2012) from its site and unpack it into ROOT/train/CLASS/*.JPEG and ROOT/val/CLASS/*.JPEG"
)


def load_restricted_imagenet(
    name: str, split: str, root: str | os.PathLike[str] | None, limit: int | None
) -> tuple[Tensor, Tensor]:
    """Load Restricted ImageNet from `root`/train or, for the test split, `root`/val.

    Every image is scaled to 256 pixels on its short side and cut to the central 224 x 224. An image takes
    147 KiB of memory, the whole training split some 39 GB; `limit` decodes only the images that it keeps.
    See `class_of_folders` for how the folders in there may be named.

    Returns:
        images uint8 N x 3 x 224 x 224, labels int64 N.

    Raises:
        DatasetNotFoundError: the folder, or the images in it, are missing.
        DatasetFormatError: the folders' classes cannot be told, or a file is no readable image.
        MemoryError: the images are larger than this machine's memory.
    """
    torchvision_folder = require("torchvision.datasets.folder", "lab")
    folders = search_folders(root, (_FOLDERS[split],))
    folder = next((path for path in folders if path.is_dir()), None)
    if folder is None:
        raise not_found(name, f"the folder {_FOLDERS[split]}", [f"  {path}" for path in folders], _HOW_TO_GET)
    try:
        samples = torchvision_folder.make_dataset(
            str(folder), class_of_folders(folder), extensions=torchvision_folder.IMG_EXTENSIONS
        )
    except FileNotFoundError as error:
        raise not_found(name, "images in every class folder", [f"  {folder}: {error}"], _HOW_TO_GET) from error
    samples = [samples[index] for index in subset_indices(len(samples), limit).tolist()]
    _check_memory(len(samples))
    images = torch.empty((len(samples), *_INFO.shape), dtype=torch.uint8)
    for image, (path, _) in zip(images, samples, strict=True):
        image.copy_(_decode(path))
    return images, torch.tensor([label for _, label in samples])


def class_of_folders(folder: Path) -> dict[str, int]:
    """The label of every class folder in `folder`; ImageNet classes outside the nine groups are left out.

    The folders are named in one of three ways: by the nine classes (`dog`, `cat`, ...), by ImageNet's class
    indices (`0` to `999`, any part of them), or by WordNet ids, where the index is the rank in sorted order
    and so all 1000 must be there.

    Raises:
        DatasetFormatError: the folders are named in none of these ways.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if names and set(names) <= set(_RANGES):
        return {name: _INFO.classes.index(name) for name in names}
    if names and all(name.isdecimal() and int(name) < _IMAGENET_CLASSES for name in names):
        indices = {name: int(name) for name in names}
    elif len(names) == _IMAGENET_CLASSES and all(re.fullmatch(r"n\d{8}", name) for name in names):
        indices = {name: rank for rank, name in enumerate(names)}
    else:
        raise DatasetFormatError(
            f"{folder}: expected all 1000 ImageNet class folders, or folders named by ImageNet's class index "
            f"(0 to 999), or by class ({', '.join(_RANGES)}); "
            f"found {len(names)} folders: {', '.join(names[:5]) or 'none'}" + (", ..." if len(names) > 5 else "")
        )
    labels = {
        name: label
        for label, group in enumerate(_INFO.classes)
        for name, index in indices.items()
        if _RANGES[group][0] <= index <= _RANGES[group][1]
    }
    if not labels:
        raise DatasetFormatError(
            f"{folder}: expected a class of Restricted ImageNet, found none among {len(names)} folders"
        )
    return labels


def _check_memory(count: int) -> None:
    needed = count * _INFO.shape[0] * _INFO.shape[1] * _INFO.shape[2]
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else needed
    if needed > available:
        raise MemoryError(
            f"restricted-imagenet: {count} images take {needed / 1e9:.1f} GB, "
            f"found {available / 1e9:.1f} GB of memory; load fewer with limit"
        )


def _decode(path: str) -> Tensor:
    """One image file as uint8 3 x 224 x 224."""
    functional = require("torchvision.transforms.functional", "lab")
    loader = require("torchvision.datasets.folder", "lab").default_loader
    try:
        image = loader(path)
    except Exception as error:  # a damaged image can fail in any way
        raise DatasetFormatError(f"{path}: expected a readable image file, found: {error!r}") from error
    pixels: Tensor = functional.pil_to_tensor(functional.center_crop(functional.resize(image, 256), _INFO.shape[1:]))
    return pixels
