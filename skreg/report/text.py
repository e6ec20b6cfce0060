"""The words of a report as plain text: for the PDF's pages, and as Markdown for a folder of pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from skreg.evaluation import Table, markdown_table
from skreg.evaluation.table import PASSED
from skreg.report.content import Report, Section

WIDTH = 110  # characters a line of running text


def table_text(table: Table) -> str:
    """Title, aligned columns, note."""
    cells = [tuple(_one_line(cell) for cell in row) for row in (table.columns, *table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.columns))]
    lines = [
        "  ".join(cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([table.title, "", *lines, *(["", textwrap.fill(table.note, WIDTH)] if table.note else [])])


def checks_text(section: Section) -> str:
    """What is missing, and the warnings."""
    sentences = [*section.missing, *section.warnings]
    if not section.warnings and section.tables:
        sentences.append(PASSED)
    return "\n".join(textwrap.fill(each, WIDTH, subsequent_indent="  ") for each in sentences)


def facts_text(facts: Mapping[str, str]) -> str:
    """A line a fact, wrapped."""
    return "\n".join(textwrap.fill(f"{name}: {value}", WIDTH, subsequent_indent="  ") for name, value in facts.items())


def to_markdown(report: Report, pictures: Mapping[str, str]) -> str:
    """The report with links to its pictures.

    Args:
        report: what to write.
        pictures: file names, by data set and drawing: "four-shapes/kernels".
    """
    parts = [f"# {report.title}"]
    for section in report.sections:
        parts += [f"## {section.data}", *section.missing, *(markdown_table(table) for table in section.tables)]
        if section.tables and not section.warnings:
            parts.append(PASSED)
        for drawing in section.drawings:
            file = pictures[f"{section.data}/{drawing.name}"]
            parts += [f"### {drawing.title}", f"![{drawing.alt}]({file})", drawing.caption]
        parts += [markdown_table(table) for table in section.setup]
        parts += ["### Commands", *(f"{name}:\n\n    {command}" for name, command in section.commands.items())]
    parts += ["## This report", "\n".join(f"- {name}: {value}" for name, value in report.made.items())]
    return "\n\n".join(parts) + "\n"


def _one_line(cell: str) -> str:
    first, *rest = cell.split("\n")
    return f"{first} ({', '.join(rest)})" if rest else first
