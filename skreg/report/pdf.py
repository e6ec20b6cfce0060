"""A report as a PDF: a page a table or figure, as large as it needs to be; drawings stay vectors."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from skreg._extras import require
from skreg.figures import Drawing
from skreg.report.content import Report
from skreg.report.text import checks_text, facts_text, table_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

_MARGIN = 0.5  # inches
_SIZE = 9.0  # points
_CHARACTER, _LINE = 0.602 * _SIZE / 72, 1.3 * _SIZE / 72  # inches, of the monospaced font


def to_pdf(report: Report) -> bytes:
    """The whole file."""
    buffer = io.BytesIO()
    with require("matplotlib.backends.backend_pdf", "lab").PdfPages(buffer, metadata={"Title": report.title}) as pages:
        for text in _front(report):
            pages.savefig(_text_page(text))
        for section in report.sections:
            for drawing in section.drawings:
                with _words(drawing) as page:
                    pages.savefig(drawing.figure, bbox_inches=page)
        for section in report.sections:
            for table in section.setup:
                pages.savefig(_text_page(f"{section.data}\n\n{table_text(table)}"))
            pages.savefig(_text_page(f"{section.data}: commands\n\n{facts_text(section.commands)}"))
        pages.savefig(_text_page(f"This report\n\n{facts_text(report.made)}"))
    return buffer.getvalue()


def _front(report: Report) -> Iterator[str]:
    """Title and contents; the tables of each data set, and their checks."""
    contents = []
    for section in report.sections:
        titles = [table.title for table in section.tables] + [drawing.title for drawing in section.drawings]
        contents.append("\n".join([section.data, *(f"  {title}" for title in titles)]))
    yield "\n\n".join([report.title, *contents])
    for section in report.sections:
        for table in section.tables:
            yield f"{section.data}\n\n{table_text(table)}"
        if checks := checks_text(section):
            yield f"{section.data}: checks\n\n{checks}"


def _text_page(text: str) -> Figure:
    lines = text.split("\n")
    width = max(len(line) for line in lines) * _CHARACTER + 2 * _MARGIN
    height = len(lines) * _LINE + 2 * _MARGIN
    page: Figure = require("matplotlib.figure", "lab").Figure(figsize=(width, height))
    page.text(
        _MARGIN / width, 1 - _MARGIN / height, text, va="top", size=_SIZE, family="monospace", linespacing=1.3,
        parse_math=False,
    )  # fmt: skip
    return page


@contextmanager
def _words(drawing: Drawing) -> Iterator[Bbox]:
    """Title and caption above and below a figure for the while; yields the page, in inches."""
    figure = drawing.figure
    width, height = figure.get_size_inches()
    caption = textwrap.wrap(drawing.caption, max(20, int((width - 0.4) / _CHARACTER)))
    options: dict[str, Any] = {"parse_math": False, "va": "top", "size": _SIZE}
    bottom = 0.3 + len(caption) * _LINE
    # Laid out before a legend is moved, which takes from it the room that the layout keeps for it.
    figure.draw_without_rendering()
    layout = figure.get_layout_engine()
    figure.set_layout_engine("none")
    for legend in figure.legends:  # below the panels, and not at the edge of the page, where the caption is
        legend.set_bbox_to_anchor((0, 0, 1, 1), figure.transFigure)
    added = [
        figure.text(0.2 / width, 1 + 0.35 / height, drawing.title, **options, weight="bold"),
        figure.text(0.2 / width, -0.1 / height, "\n".join(caption), **options, linespacing=1.3),
    ]
    try:
        yield require("matplotlib.transforms", "lab").Bbox([[0, -bottom], [width, height + 0.5]])
    finally:
        for each in added:
            each.remove()
        for legend in figure.legends:
            legend.set_bbox_to_anchor(None)
        figure.set_layout_engine(layout)
