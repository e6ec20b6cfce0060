"""A report as one HTML file that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import base64
import string
import struct
from collections.abc import Iterator
from html import escape
from importlib import resources

from skreg.evaluation import Table
from skreg.evaluation.table import PASSED
from skreg.figures import Drawing
from skreg.figures.saving import render
from skreg.report.content import Report, Section

DPI = 144  # of the pictures: one and a half dots a pixel of the page
MAX_WIDTH = 2000  # dots; wider pictures get fewer dots an inch, so that the file keeps a sensible size
_CSS_DPI = 96  # pixels an inch in CSS


def to_html(report: Report) -> str:
    """The whole page, with pictures as PNG data URIs. All text is escaped."""
    contents: list[str] = []
    body: list[str] = []
    for number, section in enumerate(report.sections, start=1):
        links, parts = _section(section, f"s{number}")
        contents.append(f'<li><a href="#s{number}">{escape(section.data)}</a><ul>{links}</ul></li>')
        body.append(parts)
    contents.append('<li><a href="#report">This report</a></li>')
    body.append(_made(report))
    return string.Template(_file("page.html")).substitute(
        title=escape(report.title),
        style=_file("style.css"),
        script=_file("script.js"),
        contents=f"<ul>{''.join(contents)}</ul>",
        body="\n".join(body),
    )


def _file(name: str) -> str:
    return resources.files("skreg.report").joinpath(name).read_text(encoding="utf-8")


def _section(section: Section, key: str) -> tuple[str, str]:
    """Links to the parts of a data set's section, and the section itself."""
    parts = [
        ("Results", "results", "".join(_results(section, key))),
        ("Checks", "checks", "".join(_checks(section))),
        ("Figures", "figures", "".join(_figure(drawing, key) for drawing in section.drawings)),
        ("How it was made", "made", "".join(_setup(section, key))),
    ]
    links, body = [], [f'<section aria-labelledby="{key}"><h2 id="{key}">{escape(section.data)}</h2>']
    for title, name, text in parts:
        if text:
            figures = _figure_links(section, key) if name == "figures" else ""
            links.append(f'<li><a href="#{key}-{name}">{title}</a>{figures}</li>')
            body.append(f'<h3 id="{key}-{name}">{title}</h3>{text}')
    return "".join(links), "\n".join([*body, "</section>"])


def _results(section: Section, key: str) -> Iterator[str]:
    for sentence in section.missing:
        yield f'<p class="missing">{escape(sentence)}</p>'
    for number, table in enumerate(section.tables, start=1):
        yield _table(table, f"{key}-table{number}")


def _checks(section: Section) -> Iterator[str]:
    if section.warnings:
        yield "<p>What should not be taken at face value, and why:</p>"
        yield f'<ul class="warnings">{"".join(f"<li>{escape(each)}</li>" for each in section.warnings)}</ul>'
    elif section.tables:
        yield f"<p>{PASSED}</p>"


def _figure_links(section: Section, key: str) -> str:
    links = (f'<li><a href="#{key}-{escape(each.name)}">{escape(each.title)}</a></li>' for each in section.drawings)
    return f"<ul>{''.join(links)}</ul>"


def _figure(drawing: Drawing, key: str) -> str:
    width_inches = drawing.figure.get_size_inches()[0]
    image = render(drawing.figure, "png", dpi=int(min(DPI, MAX_WIDTH / width_inches)))
    dots, height_dots = struct.unpack(">II", image[16:24])  # PNG's header
    width = round(width_inches * _CSS_DPI)
    data = base64.b64encode(image).decode()
    name = f"{key}-{escape(drawing.name)}"
    return (
        f'<figure aria-labelledby="{name}"><h4 id="{name}">{escape(drawing.title)}</h4>'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}">'
        f'<img alt="{escape(drawing.alt)}" width="{width}" height="{round(height_dots * width / dots)}" '
        f'style="--width: {width}px" '
        f'src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{escape(drawing.caption)}</figcaption></figure>\n"
    )


def _setup(section: Section, key: str) -> Iterator[str]:
    for number, table in enumerate(section.setup, start=1):
        yield _table(table, f"{key}-setup{number}", words=number > 1)
    yield f'<h4 id="{key}-commands">Commands</h4><dl>'
    for name, command in section.commands.items():
        yield f"<dt>{escape(name)}</dt><dd><pre>{escape(command)}</pre></dd>"
    yield "</dl>"


def _made(report: Report) -> str:
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.made.items())
    return f'<section aria-labelledby="report"><h2 id="report">This report</h2><dl>{"".join(rows)}</dl></section>'


def _table(table: Table, key: str, *, words: bool = False) -> str:
    """A table that scrolls in its own box; `words` where the cells are text and not numbers."""
    kind = "words" if words else ""
    if len(table.rows) > 1:
        kind = f"{kind} sortable".strip()
    heading = "".join(f'<th scope="col">{escape(each.replace("_", " "))}</th>' for each in table.columns)
    rows = "\n".join(
        f'<tr><th scope="row">{_cell(row[0])}</th>{"".join(_td(table, i, j) for j in range(1, len(row)))}</tr>'
        for i, row in enumerate(table.rows)
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h4 id="{key}">{escape(table.title)}</h4>'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{key}">'
        f'<table class="{kind}" aria-labelledby="{key}"><thead><tr>{heading}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>{note}\n"
    )


def _td(table: Table, row: int, column: int) -> str:
    kind = ' class="best"' if (row, column) in table.best else ""
    return f"<td{kind}>{_cell(table.rows[row][column])}</td>"


def _cell(text: str) -> str:
    first, *rest = text.split("\n")
    return escape(first) + "".join(f"<small>{escape(line)}</small>" for line in rest)
