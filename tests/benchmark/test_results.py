from __future__ import annotations

import csv
import io
import json
from dataclasses import fields, replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from skreg import cli
from skreg.benchmark import (
    Measurement,
    build_cases,
    describe_machine,
    plot_size,
    print_measurements,
    write_csv,
)
from skreg.benchmark.results import split_small_call
from skreg.training.checkpoint import RunError

MACHINE = {"device": "cpu", "cpu": "A, B", "simd": "avx2"}
ROW = Measurement(
    section="size", weights="small", tensors=2, count=1000, dtype="float32", layout="contiguous",
    exponentiate="kernel", cache="warm", threads=2, contender="ours", samples=5, lower_us=9.5, median_us=10.0,
    upper_us=12.0, times_first=1.0, gb_per_s=0.8, of_fresh_copy=0.5, of_ready_copy=0.4, note="",
)  # fmt: skip
MISSING = replace(
    ROW, contender="naive", samples=0, lower_us=None, median_us=None, upper_us=None, times_first=None,
    gb_per_s=None, of_fresh_copy=None, of_ready_copy=None, note="no [compiler]",
)  # fmt: skip


def test_csv_holds_every_field_and_the_machine(tmp_path):
    path = tmp_path / "results.csv"
    write_csv(path, [ROW, MISSING], MACHINE)
    first, second = csv.DictReader(path.read_text().splitlines())
    assert list(first) == [each.name for each in fields(Measurement)] + list(MACHINE)
    assert (first["median_us"], first["threads"], first["cpu"]) == ("10.0", "2", "A, B")
    assert (second["median_us"], second["note"]) == ("", "no [compiler]")
    assert [each.name for each in tmp_path.iterdir()] == ["results.csv"]


def test_csv_that_cannot_be_written_names_the_file(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*missing/results\.csv"):
        write_csv(tmp_path / "missing" / "results.csv", [ROW], MACHINE)


def printed(rows, width=200):
    out = io.StringIO()
    print_measurements(rows, MACHINE, Console(file=out, width=width))
    return out.getvalue()


def test_table_shows_machine_figures_and_reasons():
    text = printed([ROW, MISSING])
    assert "cpu A, B" in text
    assert "Growth with the number of weights" in text
    line = next(line for line in text.splitlines() if "ours" in line)
    for cell in ("10.0 µs", "25%", "1.00", "0.80", "50%", "40%"):
        assert cell in line
    assert "not run" in text
    assert "naive: no [compiler]" in text


def test_cases_are_told_apart_by_what_varies_alone():
    assert "threads" not in printed([ROW])
    text = printed([ROW, replace(ROW, threads=1)])
    assert "small, 2 threads" in text
    assert "small, 1 threads" in text
    assert "dtype" not in text


def test_table_fits_a_terminal_of_80_columns():
    slow = replace(ROW, contender="ours, autograd, add", median_us=7.66e6, times_first=123.45, gb_per_s=123.45)
    text = printed([ROW, slow, replace(slow, weights="4 x 1178 x 1178 x 3 x 3")], width=80)
    for cell in ("ours, autograd, add", "7.66 s", "123.45", "4 x 1178 x 1178 x 3 x 3"):
        assert cell in text


def small_call(**medians):
    rows = [
        replace(ROW, section="small", contender=name.replace("_", " "), median_us=us) for name, us in medians.items()
    ]
    whole = replace(ROW, section="small", contender="ours, autograd", median_us=100.0)
    return [whole, *rows]


def test_parts_of_a_small_call_add_up():
    rows = small_call(ours=40.0, ours_on_one_kernel=15.0, autograd_alone=35.0)
    parts = split_small_call(rows)
    assert parts == {
        "arithmetic and memory": 25.0,
        "call of the operator": 15.0,
        "autograd": 35.0,
        "selection and checks in Python": 25.0,
    }
    assert "autograd: 35.0 µs" in printed(rows)


def test_plot_draws_the_medians():
    rows = [
        replace(ROW, count=3000, median_us=30.0),
        ROW,
        replace(ROW, contender="copy, fresh memory"),
        MISSING,
    ]
    (axes,) = plot_size(rows, MACHINE).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["ours", "copy, fresh memory"]
    assert list(lines["ours"].get_xdata()) == [1000, 3000]
    assert list(lines["ours"].get_ydata()) == [10.0, 30.0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert "A, B" in axes.get_title()


def test_plot_of_threads_beside_sizes():
    rows = [
        replace(ROW, section="size"),
        *(replace(ROW, section="threads", threads=n, median_us=8.0 / n) for n in (1, 2, 4)),
    ]
    rows += [replace(row, contender="copy, ready memory", median_us=4.0) for row in rows[1:]]
    _, axes = plot_size(rows, MACHINE).axes
    ours, copy, proportional = axes.lines
    assert list(ours.get_xdata()) == [1, 2, 4]
    assert list(ours.get_ydata()) == [1, 2, 4] == list(proportional.get_ydata())
    assert list(copy.get_ydata()) == [1, 1, 1]


def test_plot_without_sizes():
    with pytest.raises(ValueError, match="expected measurements of the section size, found none"):
        plot_size([replace(ROW, section="penalty")], MACHINE)


def bench(*arguments):
    return CliRunner().invoke(cli.app, ["bench", *arguments], env={"COLUMNS": "500", "NO_COLOR": "1"})


def test_command_measures_and_writes(tmp_path):
    path = tmp_path / "new" / "results.csv"
    options = [
        "--weights",
        "two_conv",
        "--rounds",
        "1",
        "--threads",
        "1",
        "--no-compile",
        "--csv",
        str(path),
        "--json",
    ]
    result = bench("penalty", *options)
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["machine"] == describe_machine()
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["contender"] for row in rows] == [row["contender"] for row in printed["measurements"]]
    cases = build_cases(["penalty"], ["two_conv"], threads=1, compiled=False)
    assert len(rows) == sum(len(case.contenders) for case in cases)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["speed"], 1, "section: expected one of penalty"),
        (["--weights", "vgg"], 1, "weights: expected one of two_conv"),
        (["penalty", "--plot", "size.png"], 2, "expected the section size"),
    ],
)
def test_command_refuses_what_it_does_not_know(arguments, status, message):
    result = bench(*arguments)
    assert result.exit_code == status
    assert message in result.stderr
