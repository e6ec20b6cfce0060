"""The tables of evaluations on a terminal, or as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from skreg._extras import require
from skreg.evaluation.evaluate import Evaluation
from skreg.evaluation.table import PASSED, Table, build_tables, list_warnings

if TYPE_CHECKING:
    from rich.console import Console


def print_report(evaluations: Sequence[Evaluation], console: Console) -> None:
    """Print the tables on a rich console, each with what it fails."""
    rich_table = require("rich.table", "lab").Table
    text = require("rich.text", "lab").Text
    for table in build_tables(evaluations):
        shown = rich_table(title=table.title, title_justify="left", caption=table.note, caption_justify="left")
        for index, column in enumerate(table.columns):
            shown.add_column(text(column), justify="left" if index == 0 else "right")
        for row in _marked_rows(table):
            shown.add_row(*(text(_marked(cell, "*"), style="bold") if best else text(cell) for cell, best in row))
        console.print(shown)
        for warning in table.warnings:
            console.print(text(f"warning: {warning}", style="yellow"))
        console.print()
    if not list_warnings(evaluations):
        console.print(text(PASSED))


def _marked_rows(table: Table) -> Iterator[list[tuple[str, bool]]]:
    """The rows, each cell with whether it is to be marked."""
    for i, row in enumerate(table.rows):
        yield [(cell, (i, j) in table.best) for j, cell in enumerate(row)]


def _marked(cell: str, before: str, after: str = "") -> str:
    """The cell with marks around its first line."""
    first, *rest = cell.split("\n")
    return "\n".join([f"{before}{first}{after}", *rest])


def to_markdown(evaluations: Sequence[Evaluation]) -> str:
    """The tables in Markdown, each with what it fails."""
    parts = [markdown_table(table) for table in build_tables(evaluations)]
    if not list_warnings(evaluations):
        parts.append(PASSED)
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """A heading, the table, its note and its warnings in Markdown."""
    lines = [f"### {table.title}", "", _markdown_row(table.columns)]
    lines.append("|:---" + "|---:" * (len(table.columns) - 1) + "|")
    lines += [
        _markdown_row([_marked(cell, "**", "**") if best else cell for cell, best in row])
        for row in _marked_rows(table)
    ]
    if table.note:
        lines += ["", table.note]
    if table.warnings:
        lines += ["", *(f"- warning: {warning}" for warning in table.warnings)]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells) + " |"
