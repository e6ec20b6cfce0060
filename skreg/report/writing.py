"""Reports on disk, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from skreg.figures.saving import render
from skreg.report.content import Report
from skreg.report.html import to_html
from skreg.report.pdf import to_pdf
from skreg.report.text import to_markdown
from skreg.training import RunError
from skreg.training.checkpoint import write_file

FORMATS = ("html", "pdf", "png", "all")
FOLDERS = ("png", "all")  # the formats that make a folder
PICTURES_FOLDER = "figures"
_ENDINGS = {".html": "html", ".htm": "html", ".pdf": "pdf", "": "png"}


def check_output(path: str | os.PathLike[str], kind: str | None = None) -> str:
    """The format of a report at `path`, once it is known that it can be written; its folder is made.

    Args:
        path: where the report will be: a file or, for "png" and "all", a folder.
        kind: one of `FORMATS`; None for what the name says: .html, .pdf, or a folder where it has no ending.

    Raises:
        ValueError: no such format, or a name that says none.
        RunError: nothing can be written there; says why.
    """
    path = Path(path)
    if kind is None and path.suffix.lower() not in _ENDINGS:
        raise ValueError(f"{path}: expected a name in .html or .pdf, or without an ending for a folder of pictures")
    kind = kind or _ENDINGS[path.suffix.lower()]
    if kind not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, found {kind!r}")
    if kind in FOLDERS and path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file, and format {kind} makes a folder; choose another name")
    if kind not in FOLDERS and path.is_dir():
        raise RunError(f"{path} is a folder; give the name of a file in it")
    folder = path if kind in FOLDERS else path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(f"cannot write the report to {path}: {error.strerror or error}") from error
    return kind


def write_report(report: Report, path: str | os.PathLike[str], kind: str | None = None) -> None:
    """Write `report` as one page (html), as a PDF, or as a folder of pictures with a report.md (png).

    "all" makes a folder with report.html, report.pdf and the pictures in figures/.

    Args:
        report: what to write.
        path, kind: as in `check_output`.

    Raises:
        ValueError, RunError: as `check_output` does. Nothing half-written is left.
    """
    path, kind = Path(path), check_output(path, kind)
    if kind == "html":
        write_file(path, to_html(report).encode())
    elif kind == "pdf":
        write_file(path, to_pdf(report))
    elif kind == "all":
        for name in ("report.html", "report.pdf", PICTURES_FOLDER):
            write_report(report, path / name)
    else:
        _write_folder(report, path)


def _write_folder(report: Report, folder: Path) -> None:
    several = len(report.sections) > 1
    names, files = {}, {}
    for section in report.sections:
        for drawing in section.drawings:
            name = f"{section.data}-{drawing.name}.png" if several else f"{drawing.name}.png"
            names[f"{section.data}/{drawing.name}"] = name
            files[name] = render(drawing.figure, "png")
    files["report.md"] = to_markdown(report, names).encode()
    for name, content in files.items():
        write_file(folder / name, content)
