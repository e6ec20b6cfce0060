"""MNIST and Fashion-MNIST: four IDX files each, plain or gzipped."""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skreg.data.files import DatasetFormatError, find_files, search_folders, subset
from skreg.data.info import DATASETS

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 8
# Deflate cannot shrink data further than this, so a gzipped file's size bounds what it can hold.
_DEFLATE_MAX_RATIO = 1032

_STEMS = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class _Source:
    """One IDX data set: where it lies, how to get it, and the labels that its real files begin with."""

    layout: tuple[str, ...]
    system: tuple[str, ...]
    how_to_get: str
    first_labels: dict[str, tuple[int, ...]]


def _torchvision_command(dataset: str) -> str:
    return f"python -c \"from torchvision.datasets import {dataset}; {dataset}('ROOT', download=True)\""


_SOURCES = {
    "mnist": _Source(
        layout=("MNIST/raw", ""),
        system=(),
        how_to_get=_torchvision_command("MNIST"),
        first_labels={"train": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4), "test": (7, 2, 1, 0, 4, 1, 4, 9, 5, 9)},
    ),
    "fashion-mnist": _Source(
        layout=("FashionMNIST/raw", ""),
        system=("/usr/share/datasets/fashion-mnist",),
        how_to_get="the Debian package dataset-fashion-mnist, or " + _torchvision_command("FashionMNIST"),
        first_labels={"train": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5), "test": (9, 2, 1, 1, 6, 1, 4, 6, 5, 7)},
    ),
}


def load_idx_dataset(
    name: str, split: str, root: str | os.PathLike[str] | None, limit: int | None
) -> tuple[Tensor, Tensor]:
    """Load "mnist" or "fashion-mnist" from `root`, in torchvision's layout or flat.

    Returns:
        images uint8 N x 1 x 28 x 28, labels int64 N.

    Raises:
        DatasetNotFoundError: a file is missing.
        DatasetFormatError: a file is damaged, the two files disagree, or they are the other data set's.
    """
    info, source, stem = DATASETS[name], _SOURCES[name], _STEMS[split]
    image_path, label_path = find_files(
        name,
        search_folders(root, source.layout, source.system),
        [f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"],
        source.how_to_get,
        suffixes=("", ".gz"),
    )
    images, labels = read_idx(image_path, info.shape[1:]), read_idx(label_path, ())
    if len(images) != len(labels):
        raise DatasetFormatError(f"{image_path} holds {len(images)} images but {label_path} {len(labels)} labels")
    if labels.max() >= len(info.classes):
        raise DatasetFormatError(
            f"{label_path}: expected labels 0 to {len(info.classes) - 1}, found a label {labels.max()}"
        )
    _refuse_the_other_dataset(name, split, label_path, labels)
    return subset(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long(), limit)


def _refuse_the_other_dataset(name: str, split: str, path: Path, labels: npt.NDArray[np.uint8]) -> None:
    # Both data sets use the same file names and shapes: a flat folder alone does not say which one it holds.
    for other, source in _SOURCES.items():
        first = source.first_labels[split]
        if other != name and tuple(labels[: len(first)].tolist()) == first:
            raise DatasetFormatError(f"{path}: expected the labels of {name}, found those of {other}")


def read_idx(path: Path, item_shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, plain or gzipped, whose items have shape `item_shape`.

    The header is held against `item_shape` and against the file's size before memory is taken for the data.

    Returns:
        uint8 array of shape (items, *item_shape).

    Raises:
        DatasetFormatError: wrong magic number, element type, shape or size; damaged gzip data.
    """
    size = path.stat().st_size
    with path.open("rb") as raw:
        compressed = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        raw.seek(0)
        try:
            if not compressed:
                return _read_items(path, raw, item_shape, size)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _read_items(path, stream, item_shape, size * _DEFLATE_MAX_RATIO)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DatasetFormatError(f"{path}: expected whole gzip data, found it damaged: {error}") from error


def _read_items(
    path: Path, stream: io.BufferedIOBase, item_shape: Sequence[int], largest: int
) -> npt.NDArray[np.uint8]:
    """Read header and items from `stream`, which cannot hold more than `largest` bytes."""
    dims = 1 + len(item_shape)
    header = stream.read(4 + 4 * dims)
    magic = bytes((0, 0, _UNSIGNED_BYTE, dims))
    if header[:4] != magic:
        raise DatasetFormatError(
            f"{path}: expected the IDX magic number {magic.hex()} (unsigned bytes, {dims} dimensions), "
            f"found {header[:4].hex() or 'an empty file'}"
        )
    if len(header) < 4 + 4 * dims:
        raise DatasetFormatError(f"{path}: expected a header of {4 + 4 * dims} bytes, found {len(header)}")
    count, *shape = (int(size) for size in np.frombuffer(header, dtype=">u4", offset=4))
    if shape != list(item_shape) or count == 0:
        expected = " x ".join(str(size) for size in ("N", *item_shape))
        found = " x ".join(str(size) for size in (count, *shape))
        raise DatasetFormatError(f"{path}: expected the shape {expected} with N at least 1, found {found}")

    expected_bytes = count * math.prod(item_shape)
    if expected_bytes > largest - len(header):
        raise DatasetFormatError(
            f"{path}: the header promises {expected_bytes} bytes of data, "
            f"found a file that holds at most {max(largest - len(header), 0)}"
        )
    data = bytearray(expected_bytes)
    view, filled = memoryview(data), 0
    while filled < expected_bytes and (got := stream.readinto(view[filled:])):
        filled += got
    if filled < expected_bytes:
        raise DatasetFormatError(f"{path}: expected {expected_bytes} bytes of data, found {filled}")
    if stream.read(1):
        raise DatasetFormatError(f"{path}: expected {expected_bytes} bytes of data, found more")
    return np.frombuffer(data, dtype=np.uint8).reshape(count, *item_shape)
