"""Runs every Python block of README.md and docs/*.md.

The blocks of a file run in order, in one namespace and in a temporary folder. A block right after a line
`<!-- no-run: reason -->` is compiled only.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r" *(?P<ticks>`{3,})(?P<info>.*)")
NO_RUN = re.compile(r"<!-- no-run: (?P<reason>.*\S) -->")


@dataclass(frozen=True)
class Block:
    """A block of Python: the number of its first line, from 1, its text, and whether it is to be run."""

    line: int
    text: str
    run: bool


def python_blocks(markdown: str) -> list[Block]:
    """The blocks fenced as ```python; ValueError for a fence without end or a no-run mark without block."""
    blocks = []
    lines = markdown.splitlines()
    opening: re.Match[str] | None = None
    first = 0  # of the block that is open
    for index, line in enumerate(lines):
        fence = FENCE.fullmatch(line)
        if opening is not None:
            if fence and fence["info"].strip() == "" and len(fence["ticks"]) >= len(opening["ticks"]):
                if opening["info"].strip() == "python":
                    text = textwrap.dedent("\n".join(lines[first:index])) + "\n"
                    marked = first > 1 and NO_RUN.fullmatch(lines[first - 2].strip())
                    blocks.append(Block(first + 1, text, run=not marked))
                opening = None
        elif fence:
            opening, first = fence, index + 1
        elif "<!-- no-run" in line:
            following = lines[index + 1].strip() if index + 1 < len(lines) else ""
            if not NO_RUN.fullmatch(line.strip()) or following != "```python":
                raise ValueError(f"line {index + 1}: expected `<!-- no-run: reason -->` right before a python block")
    if opening is not None:
        raise ValueError(f"line {first}: this block has no end")
    return blocks


def run_blocks(markdown: str, name: str) -> dict[str, object]:
    """Run the blocks and return their namespace; line numbers in tracebacks are those of the file."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in python_blocks(markdown):
        code = compile("\n" * (block.line - 1) + block.text, name, "exec")
        if block.run:
            exec(code, namespace)
    return namespace


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_blocks_of_the_file_run(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            run_blocks(file.read_text(encoding="utf-8"), str(file))
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def test_method_is_checked_by_its_blocks():
    blocks = python_blocks((ROOT / "docs" / "method.md").read_text(encoding="utf-8"))
    assert all(block.run and "assert" in block.text for block in blocks)
    assert len(blocks) > 5


def test_blocks_share_a_namespace_and_other_languages_are_left_out():
    markdown = "```python\na = 1\n```\n```sh\nnot python\n```\n````text\n```python\na = 9\n```\n````\n"
    assert run_blocks(markdown + "- x\n\n  ```python\n  b = a + 1\n  ```\n", "x.md")["b"] == 2


def test_no_blocks():
    assert python_blocks("") == []


def test_marked_block_is_compiled_only():
    mark = "<!-- no-run: needs a GPU -->\n```python\n"
    assert "a" not in run_blocks(f"{mark}a = 1\n```\n", "x.md")
    with pytest.raises(SyntaxError):
        run_blocks(f"{mark}a = = 1\n```\n", "x.md")


def test_failure_has_the_line_of_the_file():
    with pytest.raises(ZeroDivisionError) as caught:
        run_blocks("text\n\n```python\na = 1\na / 0\n```\n", "x.md")
    assert caught.traceback[-1].lineno + 1 == 5


@pytest.mark.parametrize(
    ("markdown", "message"),
    [
        ("text\n```python\na = 1\n", "line 2: this block has no end"),
        ("<!-- no-run: why -->\n\n```python\na = 1\n```\n", "line 1: expected"),
        ("<!-- no-run -->\n```python\na = 1\n```\n", "line 1: expected"),
        ("<!-- no-run: why -->", "line 1: expected"),
    ],
)
def test_mistakes_in_the_markdown(markdown, message):
    with pytest.raises(ValueError, match=message):
        python_blocks(markdown)
