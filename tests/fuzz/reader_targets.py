"""Every reader of bytes from outside, as a target for the fuzzers: what it reads, and the only errors it may raise."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from skreg.data import cifar10, idx
from skreg.data.files import DatasetFormatError
from skreg.evaluation import stored_attack
from skreg.training import TrainConfig, checkpoint, list_runs, load_run
from skreg.training.checkpoint import RunError

# A real batch holds 10,000 images; a fuzzer learns as much from two.
CIFAR_IMAGES = 2


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        file: the name, inside a folder of its own, of the file that the bytes go to.
        examples: contents that the reader accepts.
        read: reads the folder; the bytes are in `file` already.
        errors: what it may raise; anything else is a fault.
    """

    file: str
    examples: Callable[[], list[bytes]]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]

    def run(self, folder: Path, content: bytes) -> bool:
        """Whether the reader took `content`; False where it raised one of its clear errors, which name the file."""
        (folder / self.file).write_bytes(content)
        try:
            self.read(folder)
        except self.errors as error:
            if self.file not in str(error):
                raise AssertionError(f"the error does not name {self.file}: {error}") from error
            return False
        return True


def _idx(data: bytes = bytes(range(48))) -> bytes:
    return bytes((0, 0, 8, 3)) + struct.pack(">3I", 3, 4, 4) + data


def _read_cifar(read: Callable[[Path], object]) -> Callable[[Path], object]:
    def reading(folder: Path) -> object:
        before, cifar10.IMAGES_PER_BATCH = cifar10.IMAGES_PER_BATCH, CIFAR_IMAGES
        try:
            return read(folder)
        finally:
            cifar10.IMAGES_PER_BATCH = before

    return reading


def _python_batches() -> list[bytes]:
    content = {b"data": np.zeros((CIFAR_IMAGES, 3072), np.uint8), b"labels": [1, 2]}
    return [pickle.dumps(content, protocol) for protocol in (2, 4)]


def _archives() -> list[bytes]:
    """What torch.save writes of a checkpoint, before its checksum."""
    state: dict[str, object] = dict.fromkeys(checkpoint._CHECKPOINT_KEYS, 0)
    state["model"] = {"conv.weight": torch.zeros(2, 1, 3, 3)}
    state["optimizer"] = {"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return [buffer.getvalue()]


def _read_sealed(folder: Path) -> object:
    """Put a right checksum behind the bytes, as somebody would who wants them to be read."""
    file = folder / checkpoint.LAST_FILE
    archive = file.read_bytes()
    if archive[-2:] == b"\0\0":
        file.write_bytes(checkpoint._with_checksum(archive))
    return checkpoint.read_checkpoint(file)


def _best() -> list[bytes]:
    weights = {"conv.weight": torch.ones(1, 1, 2, 2)}
    facts = {"epoch": 1, "score": 0.5, "sha256": checkpoint._weights_checksum(weights)}
    return [save(weights, metadata={"skreg": json.dumps(facts)})]


_MODEL = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
with torch.no_grad():
    _MODEL[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
    _MODEL[1].bias.zero_()
_IMAGES, _LABELS = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])


def _read_results(folder: Path) -> object:
    return stored_attack(folder / "fgsm.safetensors", _MODEL, _IMAGES, _LABELS, "fgsm", preset="foolbox3", eps=0.1)


def _results() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        _read_results(Path(folder))
        return [(Path(folder) / "fgsm.safetensors").read_bytes()]


def _config() -> bytes:
    return json.dumps({"config": TrainConfig(data="four-shapes").as_dict(), "versions": {}, "commit": "x"}).encode()


def _log() -> list[bytes]:
    record = {
        "epoch": 1,
        "score": 0.5,
        "validation_accuracy": 0.5,
        "validation_pgd_accuracy": 0.25,
        "layers": [{"name": "conv1", "roughness": 1.0, "norm": 1.0}],
    }
    return [json.dumps(record).encode() + b"\n"]


def _read_log(folder: Path) -> object:
    (folder / "config.json").write_bytes(_config())
    list_runs(folder)  # which shows a damaged run as such, and never fails for one
    return load_run(folder)


def _read_config(folder: Path) -> object:
    list_runs(folder)
    return load_run(folder)


TARGETS = {
    "IDX": Target(
        "images-idx3-ubyte",
        lambda: [_idx()],
        lambda folder: idx.read_idx(folder / "images-idx3-ubyte", (4, 4)),
        (DatasetFormatError,),
    ),
    "IDX, gzipped": Target(
        "images-idx3-ubyte.gz",
        lambda: [gzip.compress(_idx(), mtime=0)],
        lambda folder: idx.read_idx(folder / "images-idx3-ubyte.gz", (4, 4)),
        (DatasetFormatError,),
    ),
    "CIFAR-10, binary": Target(
        "data_batch_1.bin",
        lambda: [bytes(CIFAR_IMAGES * 3073)],
        _read_cifar(lambda folder: cifar10.read_binary_batch(folder / "data_batch_1.bin")),
        (DatasetFormatError,),
    ),
    "CIFAR-10, Python": Target(
        "data_batch_1",
        _python_batches,
        _read_cifar(lambda folder: cifar10.read_python_batch(folder / "data_batch_1")),
        (DatasetFormatError,),
    ),
    "checkpoint": Target(
        checkpoint.LAST_FILE,
        lambda: [checkpoint._with_checksum(archive) for archive in _archives()],
        lambda folder: checkpoint.read_checkpoint(folder / checkpoint.LAST_FILE),
        (RunError,),
    ),
    "checkpoint with a right checksum": Target(checkpoint.LAST_FILE, _archives, _read_sealed, (RunError,)),
    "best weights": Target(
        checkpoint.BEST_FILE, _best, lambda folder: checkpoint.read_best(folder / checkpoint.BEST_FILE), (RunError,)
    ),
    "attack results": Target("fgsm.safetensors", _results, _read_results, (RunError,)),
    "run configuration": Target("config.json", lambda: [_config()], _read_config, (RunError,)),
    "run log": Target("log.jsonl", _log, _read_log, (RunError,)),
}
