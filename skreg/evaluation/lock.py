"""One evaluation at a time in a folder: two would overwrite each other's rows."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from skreg.training.checkpoint import RunError

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where there is no lock
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder`, which is made, as far as they ask for the same lock.

    The system frees the lock when the process ends, however it ends. The file stays: if it were deleted, a process
    that waits to open it and one that makes it anew could both hold a lock.

    Raises:
        RunError: another process holds the lock, or its file cannot be made in a folder that can be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = None if fcntl is None else _open(folder / LOCK_FILE)
    if file is None:
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{folder} is being evaluated by another process; wait for it, or end it: finished batches are kept"
            ) from error
        except OSError:
            pass  # the file system has no locks
        yield


def _open(path: Path) -> IO[bytes] | None:
    """The lock's file; None where nobody can write, so that results can be read there."""
    try:
        return path.open("ab")
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return None
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
