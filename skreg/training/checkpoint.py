"""Files that are written whole and checked when read: last.pt with the one before it, and best.safetensors."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skreg._extras import require

BEST_FILE = "best.safetensors"
LAST_FILE = "last.pt"
PREVIOUS_FILE = "previous.pt"

_CHECKPOINT_KEYS = {
    "epoch", "best_epoch", "best_score", "model", "optimizer", "schedule", "order", "noise", "cpu_rng", "cuda_rng",
}  # fmt: skip

# torch.save writes a zip archive, which ends with the length of a comment and the comment: room for a checksum
# that every reader of the format skips.
_COMMENT = b"skreg %020d sha256 %64b"
_COMMENT_BYTES = len(_COMMENT % (0, b""))


class RunError(RuntimeError):
    """A run folder, or a file in it, is not what it must be; the message names it and says what to do."""


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, then move it there: a reader never sees half a file.

    The bytes are on the disk before the name is, so that a machine that loses power keeps the old or the new file.

    Raises:
        RunError: the file cannot be written; says which and why.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: Path) -> None:
    """Remove what a process that was killed while it wrote left in `folder`."""
    for name in (BEST_FILE, LAST_FILE, "config.json", "log.jsonl"):
        # With two dots where a checkpoint was being written, under the name that it waits under.
        for pattern in (f".{name}.*.tmp", f"..{name}.*.tmp"):
            for temporary in folder.glob(pattern):
                temporary.unlink(missing_ok=True)


def write_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write last.pt, everything that is needed to go on; the last.pt before it stays as previous.pt.

    Raises:
        RunError: it cannot be written; the old ones stay as they are.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = _with_checksum(buffer.getvalue())
    last, waiting = folder / LAST_FILE, folder / f".{LAST_FILE}.{os.getpid()}.new.tmp"
    try:
        write_file(waiting, content)
        # Not overwritten with a damaged one, so that a good checkpoint is never lost.
        if last.is_file() and _is_whole(last.read_bytes()):
            os.replace(last, folder / PREVIOUS_FILE)
        os.replace(waiting, last)
    except (OSError, RunError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error.__cause__
        reason = getattr(reason, "strerror", None) or reason
        raise RunError(f"cannot write {last}: {reason}; the checkpoint before it is kept") from error
    finally:
        waiting.unlink(missing_ok=True)


def read_last_good(folder: Path) -> dict[str, Any]:
    """Read last.pt or, where that is missing or damaged, previous.pt: to go on from.

    Raises:
        RunError: neither can be used; says what is wrong with last.pt.
    """
    try:
        return read_checkpoint(folder / LAST_FILE)
    except RunError:
        # What is wrong with last.pt is worth more than what is wrong with the one before it.
        try:
            return read_checkpoint(folder / PREVIOUS_FILE)
        except RunError:
            pass
        raise


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint, its size and checksum verified first, with its tensors on the CPU.

    Raises:
        RunError: the file is missing or damaged.
    """
    if not file.is_file():
        raise RunError(f"{file} is missing, so there is nothing to go on from; delete the folder and begin again")
    content = file.read_bytes()
    if not _is_whole(content):
        raise _damaged(file, f"its {len(content)} bytes do not match the size and checksum at their end")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load documents no list of what it raises
        raise _damaged(file, first_line(error)) from error
    if not isinstance(state, dict) or not state.keys() >= _CHECKPOINT_KEYS:
        raise RunError(f"{file} is not a checkpoint of skreg; put back the right file, or begin in a new folder")
    return state


def _damaged(file: Path, reason: str) -> RunError:
    return RunError(
        f"{file} is damaged ({reason}); {BEST_FILE} beside it may still be good. To train on, put back a copy of it, "
        "or delete the folder and begin again"
    )


def _with_checksum(archive: bytes) -> bytes:
    """`archive`, a zip file without a comment, with its size and SHA-256 as the comment."""
    assert archive[-2:] == b"\0\0", "torch.save wrote a zip archive with a comment of its own"
    content = archive[:-2] + struct.pack("<H", _COMMENT_BYTES)
    return content + _comment_of(content)


def _comment_of(content: bytes) -> bytes:
    return _COMMENT % (len(content), hashlib.sha256(content).hexdigest().encode())


def _is_whole(content: bytes) -> bool:
    return content[-_COMMENT_BYTES:] == _comment_of(content[:-_COMMENT_BYTES])


def write_best(folder: Path, state: Mapping[str, Tensor], epoch: int, score: float) -> None:
    """Write best.safetensors: the weights, with the epoch, its score and a checksum as metadata."""
    save = require("safetensors.torch", "lab").save
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # One key, because safetensors writes several in an order that changes from call to call.
    metadata = {"skreg": json.dumps({"epoch": epoch, "score": score, "sha256": _weights_checksum(weights)})}
    write_file(folder / BEST_FILE, save(weights, metadata=metadata))


def read_best(file: Path) -> dict[str, Tensor]:
    """Read best.safetensors and verify its checksum.

    Raises:
        RunError: the file is missing or damaged, or has no checksum.
    """
    if not file.is_file():
        raise RunError(f"{file} is missing: no epoch is finished yet; train on with --resume")
    safetensors = require("safetensors", "lab")
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            weights: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = json.loads((opened.metadata() or {}).get("skreg", "{}"))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _damaged_best(file, first_line(error)) from error
    checksum = metadata.get("sha256") if isinstance(metadata, dict) else None
    if checksum is None:
        raise RunError(f"{file} has no checksum, so it cannot be verified; train again with this version of skreg")
    if checksum != _weights_checksum(weights):
        raise _damaged_best(file, "its weights do not match their checksum")
    return weights


def _damaged_best(file: Path, reason: str) -> RunError:
    return RunError(
        f"{file} is damaged ({reason}); {LAST_FILE} beside it may still be good "
        '(load_model(which="last")). Else put back a copy, or delete the folder and train again'
    )


def _weights_checksum(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of `weights`, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
