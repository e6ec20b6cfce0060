"""Evaluations as tables for people: on a terminal, or as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skreg._extras import require
from skreg.evaluation.checks import find_warnings
from skreg.evaluation.evaluate import Evaluation
from skreg.evaluation.proportion import Proportion

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Table:
    """Text in rows and columns; a cell may hold several lines. The first column holds names."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def build_tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """Accuracy, searches, gradients and kernels of all models, each a table.

    Raises:
        ValueError: there is nothing to show, or the evaluations ran different attacks.
    """
    if not evaluations:
        raise ValueError("expected at least one evaluation, found none")
    attacks = {tuple(summary.attack for summary in each.attacks) for each in evaluations}
    if len(attacks) > 1:
        raise ValueError("one table needs the same attacks for all models; evaluate them together")
    return [_accuracy(evaluations), _searches(evaluations), _gradients(evaluations), _kernels(evaluations)]


def list_warnings(evaluations: Sequence[Evaluation]) -> list[str]:
    """The warnings of all models, each with the model's name in front."""
    return [f"{each.name}: {warning}" for each in evaluations for warning in find_warnings(each)]


def print_report(evaluations: Sequence[Evaluation], console: Console) -> None:
    """Print the tables and the warnings on a rich console."""
    rich_table = require("rich.table", "lab").Table
    text = require("rich.text", "lab").Text
    for table in build_tables(evaluations):
        shown = rich_table(title=table.title, title_justify="left", caption=table.note, caption_justify="left")
        for index, column in enumerate(table.columns):
            # Rich breaks lines at spaces only, and would cut a long name.
            shown.add_column(text(column.replace("_", " ")), justify="left" if index == 0 else "right")
        for row in table.rows:
            shown.add_row(*(text(cell) for cell in row))
        console.print(shown)
        console.print()
    warnings = list_warnings(evaluations)
    for warning in warnings:
        console.print(text(f"warning: {warning}", style="yellow"))
    if not warnings:
        console.print(text("All checks of the attacks passed."))


def to_markdown(evaluations: Sequence[Evaluation]) -> str:
    """The tables and the warnings in Markdown."""
    parts = [markdown_table(table) for table in build_tables(evaluations)]
    warnings = list_warnings(evaluations)
    parts.append("### Checks")
    parts.append("\n".join(f"- {w}" for w in warnings) if warnings else "All checks of the attacks passed.")
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """A heading, the table and its note in Markdown."""
    lines = [f"### {table.title}", "", _markdown_row(table.columns)]
    lines.append("|:---" + "|---:" * (len(table.columns) - 1) + "|")
    lines += [_markdown_row(row) for row in table.rows]
    return "\n".join(lines + (["", table.note] if table.note else []))


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells) + " |"


def _accuracy(evaluations: Sequence[Evaluation]) -> Table:
    first = evaluations[0]
    same_eps = len({each.eps for each in evaluations}) == 1
    at = f"eps {first.eps:g}" if same_eps else "training eps"
    columns = ("model", "images", "clean", *(s.attack for s in first.attacks), f"FGSM {at}", f"PGD {at}")
    rows = tuple(
        (
            each.name,
            str(each.clean.total),
            *(
                _percent(share)
                for share in (
                    each.clean,
                    *(s.accuracy for s in each.attacks),
                    each.fgsm_at_eps,
                    each.pgd_at_eps,
                )
            ),
        )
        for each in evaluations
    )
    return Table(f"Accuracy, {_data(evaluations)}", columns, rows, _accuracy_note(evaluations))


def _accuracy_note(evaluations: Sequence[Evaluation]) -> str:
    first = evaluations[0]
    bounds = {each.bound for each in evaluations}
    if bounds == {None}:
        reach = "at any distance"
    elif len(bounds) == 1:
        reach = f"within linf {first.bound:g}"
    else:
        reach = "within the bound of its data set"
    note = "Percent, with 95% intervals."
    if first.attacks:
        names = ", ".join(s.attack for s in first.attacks)
        note += (
            f" {names} (preset {first.preset}): images right for which the search found no adversarial "
            f"{reach}; a failed search counts as right."
        )
    return note + " The last two columns: linf attacks at a fixed radius, PGD with restarts and two objectives."


def _searches(evaluations: Sequence[Evaluation]) -> Table:
    rows = tuple(
        (each.name, s.attack, str(s.searches), str(s.failed), _number(s.median_l2), _number(s.median_linf))
        for each in evaluations
        for s in each.attacks
    )
    columns = ("model", "attack", "searches", "failed", "median l2", "median linf")
    note = "Medians of the distance to the adversarial; a failed search counts as infinitely far."
    return Table("Searches for adversarial images", columns, rows, note)


def _gradients(evaluations: Sequence[Evaluation]) -> Table:
    rows = tuple(
        (each.name, _percent(each.zero_gradients), _number(each.logit_margin), _percent(each.pgd_at_one))
        for each in evaluations
    )
    columns = ("model", "zero gradients", "logit margin", "PGD eps 1")
    note = (
        "Percent of images whose gradient is exactly zero; mean distance of the two highest logits, which "
        "makes gradients vanish where it is large; accuracy under PGD with everything within reach, which "
        "should be 0."
    )
    return Table("Can the attacks be believed?", columns, rows, note)


def _kernels(evaluations: Sequence[Evaluation]) -> Table:
    rows = tuple(
        (
            each.name,
            layer.name,
            f"{layer.roughness:.3f}",
            f"{100 * layer.high_frequency_share:.1f}%",
            _number(layer.norm),
        )
        for each in evaluations
        for layer in each.layers
    )
    note = "Roughness: squared differences of neighbouring weights over squared weights, smaller is smoother."
    return Table("Kernels", ("model", "layer", "D/E", "high freq. energy", "norm"), rows, note)


def _data(evaluations: Sequence[Evaluation]) -> str:
    return ", ".join(dict.fromkeys(each.data for each in evaluations))


def _percent(share: Proportion) -> str:
    if not share.total:
        return "–"
    low, high = share.interval
    return f"{100 * share.value:.1f}\n{100 * low:.0f}–{100 * high:.0f}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.3g}"
