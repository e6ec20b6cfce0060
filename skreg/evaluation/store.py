"""Results of an attack image by image, in a file that an interrupted evaluation goes on with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skreg._checks import check_count
from skreg._extras import require
from skreg._version import __version__
from skreg.evaluation.attacks import check_inputs, run_attack
from skreg.training.checkpoint import RunError, write_file

FORMAT = 1
_OTHER = {
    "format": "another format",
    "skreg": "another version of skreg",
    "weights": "other weights (a run that was trained on has new ones)",
    "attack": "another attack",
    "preset": "another preset",
    "eps": "another eps",
    "seed": "another seed",
}
_DTYPES = {
    "success": torch.bool,
    "l0": torch.float64,
    "l2": torch.float64,
    "linf": torch.float64,
    "image": torch.int64,
}
_COLUMNS = tuple(_DTYPES)


@dataclass(frozen=True)
class StoredResult:
    """The distances of `skreg.evaluation.AttackResult`, without the images themselves."""

    success: Tensor
    l0: Tensor
    l2: Tensor
    linf: Tensor


def stored_attack(
    file: str | os.PathLike[str],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: str,
    *,
    preset: str = "paper",
    eps: float | None = None,
    batch_size: int = 128,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> StoredResult:
    """Attack the images that `file` has no result of yet, and return those of all `images`.

    The file is written after every batch, whole or not at all: whenever the work is stopped, the next call goes on
    behind the last batch that was finished. More images than before are added to it; fewer are looked up. What an
    image's row depends on is recorded and compared: the weights, the image and its label, the attack with its
    preset, eps and seed, and the version of skreg.

    Batches begin at multiples of `batch_size`, and each draws its own random numbers, from `seed` and the number of
    its first image. Where the file ends inside a batch and more images are wanted, that batch is attacked again and
    its rows are replaced, so that a file that grew is the same as one made at once. What is not recorded: random
    draws and rounding also depend on `batch_size`, and on which images share a batch.

    Args:
        file: made by this function, or not there yet; its folder is.
        model, images, labels, attack, preset, eps, batch_size, seed: as in `skreg.evaluation.run_attack`.
        progress: is called with the number of images that have a result, before the work and after every batch.

    Raises:
        RunError: the file is damaged or cannot be written, or holds results of something else; says of what.
        TypeError, ValueError, FloatingPointError: as `run_attack` does. What was finished before is kept.
    """
    file = Path(file)
    check_inputs(model, images, labels)
    check_count("batch_size", batch_size)
    facts = describe(hash_weights(model), attack, preset, eps, seed)
    keys = hash_images(images, labels)
    columns = read_matching(file, facts, keys)
    for left_over in file.parent.glob(f".{file.name}.*.tmp"):  # of a process that was killed while it wrote
        left_over.unlink(missing_ok=True)
    told = progress or (lambda done: None)
    told(min(len(columns["success"]), len(images)))
    while (done := len(columns["success"])) < len(images):
        # A batch that an earlier call cut short is done again whole, as if that call had never been.
        first = done - done % batch_size
        rows = slice(first, first + batch_size)
        result = run_attack(
            model,
            images[rows],
            labels[rows],
            attack,
            preset=preset,
            eps=eps,
            batch_size=batch_size,
            seed=seed + first,
        )
        new = {name: getattr(result, name).cpu() for name in _COLUMNS[:-1]} | {"image": keys[rows]}
        columns = {name: torch.cat([columns[name][:first], new[name]]) for name in _COLUMNS}
        save = require("safetensors.torch", "lab").save
        write_file(file, save(columns, metadata={"skreg.evaluation": json.dumps(facts)}))
        told(len(columns["success"]))
    return StoredResult(**{name: columns[name][: len(images)] for name in _COLUMNS[:-1]})


def describe(weights: str, attack: str, preset: str, eps: float | None, seed: int) -> dict[str, str]:
    """What all rows of a file depend on, as it is recorded there; `weights` is from `hash_weights`."""
    return {
        "format": str(FORMAT),
        "skreg": __version__,
        "weights": weights,
        "attack": attack,
        "preset": preset,
        "eps": repr(eps),
        "seed": str(seed),
    }


def read_matching(file: Path, facts: dict[str, str], keys: Tensor) -> dict[str, Tensor]:
    """The columns in the file, none of them with a row where there is no file.

    Raises:
        RunError: the file is damaged, or holds results of other facts (`describe`) or images (`hash_images`).
    """
    if not file.exists():
        empty = torch.zeros(0, dtype=torch.float64)
        return {"success": empty.bool(), "l0": empty, "l2": empty, "linf": empty, "image": empty.long()}
    found, columns = _open(file)
    for name, expected in facts.items():
        if found.get(name) != expected:
            raise RunError(
                f"{file} holds results of {_OTHER[name]}: expected {expected}, found {found.get(name)}; nothing "
                "was changed. Move the file away to make new results, or go on with what it was made with"
            )
    known = min(len(keys), len(columns["image"]))
    other = (columns["image"][:known] != keys[:known]).nonzero()
    if len(other):
        raise RunError(
            f"{file} holds results of other data: image {int(other[0])} or its label is not the one that was "
            "attacked; nothing was changed. Move the file away to make new results"
        )
    return columns


def read_stored(file: str | os.PathLike[str]) -> tuple[dict[str, str], Tensor, StoredResult]:
    """Read what `stored_attack` wrote.

    Returns:
        What the results depend on (weights, attack, preset, eps, seed, version of skreg), as text: "weights" is
        what `hash_weights` gives for the model that was attacked; a number for each image with its label (N,
        int64), which tells whether two files are of the same images; and the results.

    Raises:
        RunError: the file is missing or damaged.
    """
    facts, columns = _open(Path(file))
    return facts, columns["image"], StoredResult(**{name: columns[name] for name in _COLUMNS[:-1]})


def _open(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    safetensors = require("safetensors", "lab")
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            facts: dict[str, Any] = json.loads((opened.metadata() or {})["skreg.evaluation"])
            columns = {name: opened.get_tensor(name) for name in _COLUMNS}
        _check_content(facts, columns)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(
            f"{file}: damaged or no result of skreg ({error}); move it away, and it is made again"
        ) from error
    return facts, columns


def _check_content(facts: object, columns: dict[str, Tensor]) -> None:
    """Check what holds for the results of every attack (`AttackResult`): distances are finite where it succeeded."""
    if not isinstance(facts, dict):
        raise ValueError(f"its metadata: expected an object, found {type(facts).__name__}")
    rows = len(columns["image"].flatten())
    for name, column in columns.items():
        if column.shape != (rows,) or column.dtype != _DTYPES[name]:
            raise ValueError(
                f"{name}: expected [{rows}] x {_DTYPES[name]}, found {list(column.shape)} x {column.dtype}"
            )
    for name in ("l0", "l2", "linf"):
        column = columns[name]
        wrong = (column.isfinite() != columns["success"]) | ~(column >= 0)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(f"image {row}: success is {bool(columns['success'][row])}, {name} is {float(column[row])}")


def hash_weights(model: nn.Module) -> str:
    """What tells the weights and buffers of a model from others: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def hash_images(images: Tensor, labels: Tensor) -> Tensor:
    """A number for each image with its label (N, int64)."""
    pixels = images.detach().cpu().contiguous().numpy()
    keys = [
        int.from_bytes(hashlib.sha256(image.tobytes() + bytes(str(label), "ascii")).digest()[:8], "big", signed=True)
        for image, label in zip(pixels, labels.tolist(), strict=True)
    ]
    return torch.tensor(keys, dtype=torch.int64)
