"""Figures on disk."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from skreg.training.checkpoint import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write `figure` in the format that the file's name ends in, whole or not at all.

    Args:
        path: such as "kernels.png", .pdf or .svg.
        dpi: dots an inch, for formats made of dots.

    Raises:
        ValueError: the name ends in no format that matplotlib writes; lists those.
        RunError: the file cannot be written.
    """
    path = Path(path)
    formats = figure.canvas.get_supported_filetypes()
    kind = path.suffix.lower().removeprefix(".")
    if kind not in formats:
        raise ValueError(f"{path}: the name must end in one of {', '.join(sorted(formats))}, found {path.suffix!r}")
    write_file(path, render(figure, kind, dpi=dpi))


def render(figure: Figure, kind: str, *, dpi: int = 150) -> bytes:
    """The bytes of the file that `save` writes: `kind` is a format of matplotlib, such as "png"."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi)
    return buffer.getvalue()
