from __future__ import annotations

import os
import re

import matplotlib.image
import pytest
from typer.testing import CliRunner

from skreg import cli
from skreg.report import check_output, html, write_report
from skreg.training import RunError


def test_pdf_has_a_page_for_each_table_and_figure(evil, tmp_path):
    write_report(evil, tmp_path / "report.pdf")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    # Title, table, checks, figure, two tables of the setup, commands, the report itself.
    assert len(re.findall(rb"/Type /Page\b", content)) == 8
    assert evil.sections[0].drawings[0].figure.texts == []  # the words were taken away again


def test_a_legend_stays_between_panels_and_caption(numbers, tmp_path, monkeypatch):
    """It is placed at the figure's edge, which is not the page's once there is a caption."""
    figure = numbers.sections[0].drawings[0].figure
    figure.set_layout_engine("constrained")
    figure.axes[0].set_xlabel("epoch")
    legend = figure.legend(figure.axes[0].lines, ["line"], loc="outside lower center")
    seen = []
    draw = legend.draw

    def drawing(renderer):
        draw(renderer)
        extent, panel = legend.get_window_extent(renderer), figure.axes[0].get_tightbbox(renderer)
        # None yet where the page is only laid out.
        words = [text for text in figure.texts if text.get_va() == "top" and text.get_position()[1] < 0]
        tops = [text.get_window_extent(renderer).y1 for text in words]
        seen.extend((panel.y0 - extent.y1, extent.y0 - top) for top in tops)

    monkeypatch.setattr(legend, "draw", drawing)
    write_report(numbers, tmp_path / "report.pdf")
    above, below = seen[-1]
    assert above >= 0
    assert below >= 0
    assert type(figure.get_layout_engine()).__name__ == "ConstrainedLayoutEngine"


def test_folder_has_pictures_and_a_page(numbers, tmp_path):
    write_report(numbers, tmp_path / "new" / "report", "png")
    folder = tmp_path / "new" / "report"
    assert sorted(os.listdir(folder)) == ["one.png", "report.md", "two.png"]
    assert matplotlib.image.imread(folder / "one.png").shape[:2] == (300, 450)
    text = (folder / "report.md").read_text()
    assert "| V | 9.5<br>8–11 | 76.4% | ∞ | fgsm |" in text
    assert "| VR10 | **10.0**<br>9–12 |" in text
    assert "![words](two.png)" in text
    assert "- warning: V: a warning" in text
    assert "V:\n\n    train" in text


def test_all_formats_in_one_folder(numbers, tmp_path):
    write_report(numbers, tmp_path / "report", "all")
    files = sorted(each.relative_to(tmp_path).as_posix() for each in (tmp_path / "report").rglob("*.*"))
    assert files == [
        *("report/figures/one.png", "report/figures/report.md", "report/figures/two.png"),
        *("report/report.html", "report/report.pdf"),
    ]


def test_the_name_says_the_format(tmp_path):
    assert [check_output(tmp_path / name) for name in ("a.html", "a.HTM", "a.pdf", "folder")] == [
        "html",
        "html",
        "pdf",
        "png",
    ]
    assert check_output(tmp_path / "v1.0", "png") == "png"


def test_bad_outputs_are_found_first(numbers, tmp_path):
    with pytest.raises(ValueError, match=r"report.docx: expected a name in .html or .pdf"):
        check_output(tmp_path / "report.docx")
    with pytest.raises(ValueError, match="format: expected one of html, pdf, png, all, found 'svg'"):
        check_output(tmp_path / "report", "svg")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="is a file, and format png makes a folder"):
        check_output(tmp_path / "file", "png")
    with pytest.raises(RunError, match=r"cannot write the report to .*file/report.html: (Not a directory|File exists)"):
        check_output(tmp_path / "file" / "report.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(RunError, match="is a folder; give the name of a file"):
        check_output(tmp_path / "folder.html")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_fails_leaves_the_old_page(numbers, page, monkeypatch):
    page.write_text("old")

    def fail(*arguments, **options):
        raise MemoryError("a picture too many")

    monkeypatch.setattr(html, "render", fail)
    with pytest.raises(MemoryError):
        write_report(numbers, page)
    assert page.read_text() == "old"
    assert os.listdir(page.parent) == [page.name]


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["report", *map(str, arguments)], env={"COLUMNS": "500", "NO_COLOR": "1"})


def test_command(runs, tmp_path):
    paths = [run.path for run in runs.values()]
    output = tmp_path / "new" / "page.html"
    result = invoke(*paths, "-o", output, "--only", "training", "--title", "Mine & yours", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{output}\n"
    text = output.read_text()
    assert "<title>Mine &amp; yours</title>" in text
    assert "VR &lt;2&gt; &amp; &quot;so&quot; on has no finished evaluation" in text


def test_mistakes_on_the_command_line(runs, tmp_path):
    result = invoke(runs["V"].path, "-o", tmp_path / "page.txt")
    assert result.exit_code == 2
    assert "expected a name in .html or .pdf" in result.stderr
    result = invoke(tmp_path / "nothing", "-o", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "nothing: no run here" in result.stderr
    result = invoke(runs["V"].path, "-o", tmp_path / "page.html", "--only", "painting")
    assert result.exit_code == 1
    assert "only: expected names among" in result.stderr
    assert os.listdir(tmp_path) == []
