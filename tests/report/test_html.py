from __future__ import annotations

import base64
import itertools
import re
import struct
from html.parser import HTMLParser

import pytest

from skreg.report import build_report, to_html
from skreg.report.html import MAX_WIDTH

from .conftest import EVIL, FEW, drawing

VOID = {"meta", "link", "img", "br"}


class Parsed(HTMLParser):
    """Tags with their attributes in order, text by tag, and whether every tag is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1], data))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag):
        return [text for name, text in self.texts if name == tag]


@pytest.fixture(scope="module")
def parsed(runs) -> Parsed:
    return Parsed(to_html(build_report([runs["V"], runs["VR"]], only=FEW)))


def test_nothing_is_loaded_from_elsewhere(parsed):
    sources = [value for _, attributes in parsed.tags for key, value in attributes.items() if key in ("src", "srcset")]
    assert len(sources) == 7
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    links = [attributes["href"] for tag in ("a", "link") for attributes in parsed.all(tag)]
    assert all(link.startswith("#") or link == "data:," for link in links)
    policy = next(each["content"] for each in parsed.all("meta") if each.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"url\(|@import|https?:", parsed.text("style")[0] + parsed.text("script")[0])


def test_links_lead_somewhere_and_names_are_unique(parsed):
    names = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert {each["href"][1:] for each in parsed.all("a")} <= set(names)
    labels = [attributes["aria-labelledby"] for _, attributes in parsed.tags if "aria-labelledby" in attributes]
    assert labels
    assert set(labels) <= set(names)


def test_headings_go_down_one_level_at_a_time(parsed):
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_pictures_have_words_and_a_size(parsed):
    images = parsed.all("img")
    assert len(images) == len(parsed.text("figcaption")) == 7
    for image in images:
        assert len(image["alt"]) > 40
        content = base64.b64decode(image["src"].partition(",")[2], validate=True)
        assert content.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", content[16:24])
        assert width <= MAX_WIDTH
        assert int(image["width"]) / int(image["height"]) == pytest.approx(width / height, rel=0.01)


def test_every_heading_of_a_table_has_a_scope(parsed):
    headings = parsed.all("th")
    assert {each["scope"] for each in headings} == {"row", "col"}
    assert len(parsed.all("table")) == 5 + 3


def test_tables_and_warnings_are_those_of_the_evaluation(runs):
    report = build_report([runs["V"], runs["VR"]], only=["kernels"])
    parsed = Parsed(to_html(report))
    cells = [
        line for table in report.sections[0].tables for row in table.rows for cell in row for line in cell.split("\n")
    ]
    shown = [text for tag, text in parsed.texts if tag in ("td", "th", "small")]
    remaining = iter(shown)
    assert all(cell in remaining for cell in cells)  # in this order
    for warning in report.sections[0].warnings or ("All checks of the attacks passed.",):
        assert warning in parsed.text("li") + parsed.text("p")


def test_mischief_stays_text(evil):
    parsed = Parsed(to_html(evil))
    assert not parsed.all("b")
    assert len(parsed.all("script")) == 1
    assert not any(key.startswith("on") for _, attributes in parsed.tags for key in attributes)
    for tag in ("title", "h1", "h2", "h4", "th", "small", "li", "p", "figcaption", "dt", "dd", "pre"):
        assert EVIL in parsed.text(tag), tag
    assert parsed.all("img")[0]["alt"] == EVIL


def test_a_wide_picture_gets_fewer_dots(evil):
    wide = drawing("wide")
    wide.figure.set_size_inches(40, 1)
    section = evil.sections[0].__class__("d", (), (), (), (wide,), (), {})
    (image,) = Parsed(to_html(evil.__class__("t", (section,), {}))).all("img")
    width, _ = struct.unpack(">II", base64.b64decode(image["src"].partition(",")[2])[16:24])
    assert 0.95 * MAX_WIDTH < width <= MAX_WIDTH
