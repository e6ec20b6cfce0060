"""Where data files are looked for, the two ways in which that fails, and the subset that `limit` takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ROOT_VARIABLE = "SKREG_DATA"
_SUBSET_SEED = 0


class DatasetNotFoundError(FileNotFoundError):
    """A file of a data set is in none of the places where it was looked for."""


class DatasetFormatError(ValueError):
    """A file of a data set is not what its format says it must be."""


def search_folders(
    root: str | os.PathLike[str] | None, layout: Sequence[str], system: Sequence[str] = ()
) -> list[Path]:
    """Folders to look in, best first: `layout` under `root`, else under $SKREG_DATA and then `system`.

    Args:
        root: folder that the user named; when given, nothing outside it is looked at.
        layout: subfolders of the root that may hold the files; "" is the root itself.
        system: absolute folders where a system package puts the files.
    """
    base = root if root is not None else os.environ.get(ROOT_VARIABLE) or None
    folders = [Path(base).expanduser() / subfolder for subfolder in layout] if base is not None else []
    return folders if root is not None else folders + [Path(folder) for folder in system]


def find_files(
    title: str,
    folders: Sequence[Path],
    names: Sequence[str],
    how_to_get: str,
    suffixes: Sequence[str] = ("",),
) -> list[Path]:
    """The files `names`, each under the first of `suffixes` that exists, all out of one folder.

    Raises:
        DatasetNotFoundError: when no folder holds them all; says which file was missed in which folder.
    """
    looked: list[str] = []
    for folder in folders:
        candidates = [[folder / (name + suffix) for suffix in suffixes] for name in names]
        found = [next((path for path in paths if path.is_file()), None) for paths in candidates]
        complete = [path for path in found if path is not None]
        if len(complete) == len(names):
            return complete
        missing = [name for name, path in zip(names, found, strict=True) if path is None]
        looked.append(f"  {folder}: " + (f"no {', '.join(missing)}" if folder.is_dir() else "no such folder"))
    raise not_found(
        title,
        ", ".join(" or ".join(name + suffix for suffix in suffixes) for name in names),
        looked,
        how_to_get,
    )


def not_found(title: str, wanted: str, looked: Sequence[str], how_to_get: str) -> DatasetNotFoundError:
    """The error that says what was wanted, every place looked at (a line each) and how to get the files."""
    places = "\n".join(looked) or f"  nowhere: no root was given and the variable {ROOT_VARIABLE} is not set"
    return DatasetNotFoundError(
        f"{title}: files not found: {wanted}\nlooked in:\n{places}\n"
        f"Give the folder that holds them as root, or in the variable {ROOT_VARIABLE}. "
        f"To get them: {how_to_get}"
    )


def fixed_permutation(count: int, seed: int) -> npt.NDArray[np.int64]:
    """A permutation of `range(count)` that depends on nothing but its arguments.

    It sorts the raw 64-bit stream of PCG64, which NumPy guarantees never to change; `Generator.permutation`
    carries no such promise.
    """
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def subset_indices(count: int, limit: int | None) -> Tensor:
    """Which of `count` images to keep: all in their order, or the first `limit` of a fixed permutation."""
    if limit is None:
        return torch.arange(count)
    return torch.from_numpy(fixed_permutation(count, _SUBSET_SEED)[:limit])


def subset(images: Tensor, labels: Tensor, limit: int | None) -> tuple[Tensor, Tensor]:
    """At most `limit` of the images, with their labels; see `subset_indices`."""
    if limit is None:
        return images, labels
    keep = subset_indices(len(labels), limit)
    return images[keep], labels[keep]
