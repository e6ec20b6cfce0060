"""CIFAR-10 from its binary batches or from its Python ones, whose pickles run no code here."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skreg.data.files import DatasetFormatError, find_files, search_folders, subset
from skreg.data.info import DATASETS

_CLASSES = len(DATASETS["cifar10"].classes)
_PIXELS = 3 * 32 * 32
IMAGES_PER_BATCH = 10_000
# Old pickle protocols write a byte from 128 on as two; file names take about 30 bytes an image more.
_PICKLE_BYTES_PER_IMAGE = 2 * _PIXELS + 300

_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
_BINARY_SUFFIX = ".bin"
_HOW_TO_GET = "python -c \"from torchvision.datasets import CIFAR10; CIFAR10('ROOT', download=True)\""

_Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def load_cifar10(
    name: str, split: str, root: str | os.PathLike[str] | None, limit: int | None
) -> tuple[Tensor, Tensor]:
    """Load CIFAR-10 from `root`: cifar-10-batches-bin or cifar-10-batches-py in it, or their files flat.

    Returns:
        images uint8 N x 3 x 32 x 32, labels int64 N.

    Raises:
        DatasetNotFoundError: a batch is missing.
        DatasetFormatError: a batch is damaged, or is a pickle that asks for anything but plain arrays.
    """
    paths = find_files(
        name,
        search_folders(root, ("cifar-10-batches-bin", "cifar-10-batches-py", "")),
        _BATCHES[split],
        _HOW_TO_GET,
        suffixes=(_BINARY_SUFFIX, ""),
    )
    batches = [read_binary_batch(path) if path.suffix == _BINARY_SUFFIX else read_python_batch(path) for path in paths]
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return subset(torch.from_numpy(images).reshape(-1, 3, 32, 32), torch.from_numpy(labels), limit)


def read_binary_batch(path: Path) -> _Batch:
    """Read a batch of the binary version: a label byte and 3072 pixel bytes an image.

    Returns:
        pixels uint8 N x 3072, labels int64 N.

    Raises:
        DatasetFormatError: wrong size, or a label out of range.
    """
    expected, size = IMAGES_PER_BATCH * (1 + _PIXELS), path.stat().st_size
    if size != expected:
        raise DatasetFormatError(
            f"{path}: expected {expected} bytes ({IMAGES_PER_BATCH} images of 1 + {_PIXELS}), found {size}"
        )
    records = np.fromfile(path, dtype=np.uint8).reshape(IMAGES_PER_BATCH, 1 + _PIXELS)
    return records[:, 1:], _checked_labels(path, records[:, 0])


def read_python_batch(path: Path) -> _Batch:
    """Read a batch of the Python version: a pickled dictionary with `data` and `labels`.

    Returns:
        pixels uint8 N x 3072, labels int64 N.

    Raises:
        DatasetFormatError: not such a pickle, or one that asks for more than a plain array needs.
    """
    largest, size = IMAGES_PER_BATCH * _PICKLE_BYTES_PER_IMAGE, path.stat().st_size
    if size > largest:
        raise DatasetFormatError(f"{path}: expected a batch of at most {largest} bytes, found {size}")
    try:
        content = _BatchUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except DatasetFormatError as error:
        raise DatasetFormatError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise DatasetFormatError(f"{path}: expected a pickled CIFAR-10 batch, found: {error!r}") from error
    if not isinstance(content, dict):
        raise DatasetFormatError(f"{path}: expected a pickled dictionary, found {type(content).__name__}")
    labels = content.get(b"labels", content.get("labels"))
    if not isinstance(labels, list) or len(labels) != IMAGES_PER_BATCH or {type(item) for item in labels} != {int}:
        raise DatasetFormatError(f"{path}: expected in 'labels' a list of {IMAGES_PER_BATCH} integers, found another")
    return _pixels(path, content.get(b"data", content.get("data"))), _checked_labels(path, labels)


def _checked_labels(path: Path, labels: Any) -> npt.NDArray[np.int64]:
    wrong = [label for label in labels if not 0 <= label < _CLASSES]
    if wrong:
        raise DatasetFormatError(f"{path}: expected labels 0 to {_CLASSES - 1}, found a label {wrong[0]}")
    return np.array(labels, dtype=np.int64)


class _Recorded:
    """Stands for a NumPy object in a pickle: keeps what the pickle says of it and does nothing with it."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """What pickles of protocol 2, which has no bytes, call `_codecs.encode` for."""
    if encoding != "latin1":
        raise DatasetFormatError(f"expected the encoding latin1, found {encoding!r}")
    return text.encode("latin1")


_KNOWN_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Recorded,
    ("numpy._core.multiarray", "_reconstruct"): _Recorded,
    ("numpy", "ndarray"): _Recorded,
    ("numpy", "dtype"): _Recorded,
    ("_codecs", "encode"): _latin1_bytes,
}


# The pure-Python unpickler, because its memo is a dictionary: the C one allocates as far as an index says.
class _BatchUnpickler(pickle._Unpickler):
    """Knows the globals of a pickled plain array, by stand-ins, and no others."""

    # A byte array takes memory by what its length says; no batch has one.
    dispatch: ClassVar = {
        code: step for code, step in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN_GLOBALS[module, name]
        except KeyError:
            raise DatasetFormatError(
                f"refused: the pickle asks for {module}.{name}, which no CIFAR-10 batch needs; do not trust this file"
            ) from None


def _pixels(path: Path, array: Any) -> npt.NDArray[np.uint8]:
    """The array that a pickle described, built here once the description is what a batch must hold."""
    shape = (IMAGES_PER_BATCH, _PIXELS)
    # An array's pickled state is (version, shape, dtype, is Fortran ordered, bytes).
    state = array.state if isinstance(array, _Recorded) else None
    if not isinstance(state, tuple) or len(state) != 5:
        raise DatasetFormatError(f"{path}: expected in 'data' a NumPy array, found {type(array).__name__}")
    _, found_shape, dtype, fortran, content = state
    kind = dtype.arguments[:1] if isinstance(dtype, _Recorded) else ()
    is_bytes = kind in ((b"u1",), ("u1",)) and isinstance(content, bytes)
    if found_shape != shape or fortran or not is_bytes or len(content) != shape[0] * shape[1]:
        raise DatasetFormatError(
            f"{path}: expected in 'data' a C-ordered uint8 array of shape {shape}, "
            f"found shape {found_shape}, dtype {kind}, {'Fortran' if fortran else 'C'} order"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
