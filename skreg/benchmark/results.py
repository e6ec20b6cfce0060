"""Measurements for programs and for people: CSV, tables on a terminal, a plot."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from skreg._extras import require
from skreg.benchmark.attacks import AttackMeasurement
from skreg.benchmark.cases import TITLES
from skreg.benchmark.contenders import COPY_READY, OURS
from skreg.benchmark.measure import Measurement
from skreg.benchmark.steps import StepMeasurement
from skreg.benchmark.training import TrainingMeasurement
from skreg.training.checkpoint import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table as RichTable

Machine = Mapping[str, str | int]


def write_csv(
    path: str | os.PathLike[str],
    measurements: Sequence[Measurement | StepMeasurement | TrainingMeasurement | AttackMeasurement],
    machine: Machine,
) -> None:
    """Write a row a measurement, with the machine in its last columns, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    text = io.StringIO()
    names = [each.name for each in fields(measurements[0] if measurements else Measurement)]
    writer = csv.DictWriter(text, [*names, *machine], lineterminator="\n")
    writer.writeheader()
    for measurement in measurements:
        writer.writerow({**asdict(measurement), **machine})
    write_file(Path(path), text.getvalue().encode())


def print_measurements(measurements: Sequence[Measurement], machine: Machine, console: Console) -> None:
    """Print the machine and a table a section on a rich console."""
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False, markup=False)
    for section, group in groupby(measurements, key=lambda each: each.section):
        rows = list(group)
        console.print(_table(TITLES[section], rows))
        for note in dict.fromkeys(f"{row.contender}: {row.note}" for row in rows if row.note):
            console.print(note, highlight=False, markup=False)
        if section == "small":
            for name, microseconds in split_small_call(rows).items():
                console.print(f"{name}: {_time(microseconds)}", highlight=False)


def print_training(measurements: Sequence[TrainingMeasurement], machine: Machine, console: Console) -> None:
    """Print the machine and a table of training steps on a rich console."""
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False, markup=False)
    table: RichTable = require("rich.table", "lab").Table("", box=require("rich.box", "lab").SIMPLE)
    for column in ("step", "spread", "faster", "same pixels"):
        table.add_column(column, justify="right", no_wrap=True)
    for (net, loss), rows in groupby(measurements, key=lambda each: (each.net, each.loss)):
        table.add_row(f"{net}, {loss}", style="bold")
        for row in rows:
            if row.median_ms is None or row.lower_ms is None or row.upper_ms is None or row.same_pixels is None:
                table.add_row(f"  {row.contender}", "not run")
                continue
            spread = f"{(row.upper_ms - row.lower_ms) / row.median_ms:.0%}"
            cells = (f"{row.median_ms:.1f} ms", spread, f"{row.faster:.2f}", f"{row.same_pixels:.2%}")
            table.add_row(f"  {row.contender}", *cells)
        table.add_section()
    console.print(table)
    for note in dict.fromkeys(f"{row.contender}: {row.note}" for row in measurements if row.note):
        console.print(note, highlight=False, markup=False)


def print_attacks(measurements: Sequence[AttackMeasurement], machine: Machine, console: Console) -> None:
    """Print the machine and a table of attacks on a rich console."""
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False, markup=False)
    table: RichTable = require("rich.table", "lab").Table(box=require("rich.box", "lab").SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in ("ms an image", "spread", "faster", "agreement", "distance"):
        table.add_column(column, justify="right", no_wrap=True)
    for title, rows in groupby(measurements, key=lambda each: f"{each.attack}, {each.images} images"):
        table.add_row(title, style="bold")
        for row in rows:
            spread = f"{(row.upper_ms - row.lower_ms) / row.median_ms:.0%}"
            cells = (f"{row.faster:.2f}", f"{row.agreement:.0%}", f"{row.median_distance:.3g}")
            table.add_row(f"  {row.contender}", f"{row.median_ms:.1f}", spread, *cells)
        table.add_section()
    console.print(table)


def _table(title: str, rows: Sequence[Measurement]) -> RichTable:
    """A block a case, under a line with the weights and with whatever else differs between the cases."""
    table: RichTable = require("rich.table", "lab").Table(
        title=title, title_justify="left", box=require("rich.box", "lab").SIMPLE, padding=(0, 1, 0, 0)
    )
    table.add_column("")
    for column in ("median", "spread", "x first", "GB/s", "of fresh\ncopy", "of ready\ncopy"):
        table.add_column(column, justify="right", no_wrap=True)
    labels = {"exponentiate": "exponentiate {}", "threads": "{} threads"}
    varying = [column for column in labels if len({getattr(row, column) for row in rows}) > 1]
    for case, contenders in groupby(rows, key=lambda row: [row.weights, *(getattr(row, c) for c in varying)]):
        told = [labels[column].format(value) for column, value in zip(varying, case[1:], strict=True)]
        table.add_row(", ".join([case[0], *told]), style="bold")
        for row in contenders:
            table.add_row(f"  {row.contender}", *_cells(row))
        table.add_section()
    return table


def _cells(row: Measurement) -> list[str]:
    if row.median_us is None or row.lower_us is None or row.upper_us is None:
        return ["not run", "", "", "", "", ""]
    return [
        _time(row.median_us),
        f"{(row.upper_us - row.lower_us) / row.median_us:.0%}",
        "" if row.times_first is None else f"{row.times_first:.2f}",
        "" if row.gb_per_s is None else f"{row.gb_per_s:.2f}",
        "" if row.of_fresh_copy is None else f"{row.of_fresh_copy:.0%}",
        "" if row.of_ready_copy is None else f"{row.of_ready_copy:.0%}",
    ]


def print_steps(measurements: Sequence[StepMeasurement], machine: Machine, console: Console) -> None:
    """Print the machine and a table of training steps on a rich console."""
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False, markup=False)
    table: RichTable = require("rich.table", "lab").Table(box=require("rich.box", "lab").SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in ("time", "overhead", "95% interval", "inside", "1 + share"):
        table.add_column(column, justify="right", no_wrap=True)
    for net, rows in groupby(measurements, key=lambda each: f"{each.net}, batch {each.batch_size}"):
        plain, *others = rows
        table.add_row(net, style="bold")
        table.add_row("  plain", _time(1e3 * plain.plain_ms))
        for row in others:
            added = f"{'+' if row.added_ms >= 0 else ''}{_time(1e3 * row.added_ms)}"
            cells = [added, f"{row.overhead:.4f}", f"{row.lower_overhead:.4f} to {row.upper_overhead:.4f}"]
            if row.inside_ms is not None:
                cells += [_time(1e3 * row.inside_ms), f"{row.inside_overhead:.4f}"]
            table.add_row(f"  {row.contender}", *cells)
        table.add_section()
    console.print(table)


def _time(microseconds: float) -> str:
    if abs(microseconds) < 1e3:
        return f"{microseconds:.1f} µs"
    return f"{microseconds / 1e3:.2f} ms" if abs(microseconds) < 1e6 else f"{microseconds / 1e6:.2f} s"


def split_small_call(rows: Sequence[Measurement]) -> dict[str, float]:
    """Microseconds of `reg()` and backward by what they go to, as differences of the section small's medians.

    The operator on one kernel a layer has no work to speak of: it costs dispatch, checks and the results'
    memory. A function whose gradients are there already costs what autograd costs.
    """
    medians = {row.contender: row.median_us or 0.0 for row in rows}
    whole, operator = medians["ours, autograd"], medians["ours"]
    call, autograd = medians["ours on one kernel"], medians["autograd alone"]
    return {
        "arithmetic and memory": operator - call,
        "call of the operator": call,
        "autograd": autograd,
        "selection and checks in Python": whole - operator - autograd,
    }


def plot_size(measurements: Sequence[Measurement], machine: Machine) -> Figure:
    """Time against the number of weights, both logarithmic; and the speed-up by threads where that was measured.

    Raises:
        ValueError: there are no measurements of the section size.
    """
    measured = [row for row in measurements if row.median_us is not None]
    sizes, threads = ([row for row in measured if row.section == section] for section in ("size", "threads"))
    if not sizes:
        raise ValueError("plot: expected measurements of the section size, found none; run that section too")
    columns = 2 if threads else 1
    figure = require("matplotlib.figure", "lab").Figure(figsize=(2 + 5 * columns, 4.5), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    _draw_size(axes[0], sizes)
    if threads:
        _draw_threads(axes[1], threads)
    where = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    axes[0].set_title(f"{where}, threads: {sizes[0].threads}, {sizes[0].dtype}", fontsize="medium")
    return figure  # type: ignore[no-any-return]


def _draw_size(axes: Axes, rows: Sequence[Measurement]) -> None:
    """A line a contender; the band spans the quartiles."""
    for name in dict.fromkeys(row.contender for row in rows):
        points = sorted((row for row in rows if row.contender == name), key=lambda row: row.count)
        counts = [row.count for row in points]
        style = "--" if name.startswith("copy") else "-"
        (line,) = axes.loglog(counts, [row.median_us for row in points], style, marker="o", markersize=3, label=name)
        lower, upper = [row.lower_us or 0.0 for row in points], [row.upper_us or 0.0 for row in points]
        axes.fill_between(counts, lower, upper, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xlabel("weights")
    axes.set_ylabel("µs a call, value and gradient")
    axes.grid(alpha=0.3, which="major")
    axes.legend(fontsize="small")


def _draw_threads(axes: Axes, rows: Sequence[Measurement]) -> None:
    """How many times faster than with one thread, for skreg and for the copy, a pair of lines a net."""
    for name in dict.fromkeys(row.weights for row in rows):
        for contender, style in ((OURS, "-"), (COPY_READY, "--")):
            chosen = [row for row in rows if (row.weights, row.contender) == (name, contender)]
            times = {row.threads: row.median_us or 0.0 for row in chosen}
            counts = sorted(times)
            speed_up = [times[counts[0]] / times[count] for count in counts]
            axes.plot(counts, speed_up, style, marker="o", markersize=3, label=f"{name}, {contender}")
    counts = sorted({row.threads for row in rows})
    axes.plot(counts, counts, ":", color="gray", label="proportional")
    axes.set_xticks(counts)
    axes.set_xlabel("threads")
    axes.set_ylabel("times faster than one thread")
    axes.set_title("more threads", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
