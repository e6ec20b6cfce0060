"""How runs were made, as tables: what they are, in what they differ, and what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skreg.evaluation import Table
from skreg.training import Run

_ASIDE = ("command", "date")  # what every run has of its own


def describe_setup(runs: Mapping[str, Run]) -> tuple[Table, ...]:
    """The runs one by one; the options and versions in which they differ; those that all share.

    Args:
        runs: by name, each with a finished epoch.
    """
    facts = {name: _facts(run) for name, run in runs.items()}
    keys = list(dict.fromkeys(key for each in facts.values() for key in each))
    values = {key: tuple(each.get(key, "–") for each in facts.values()) for key in keys}
    same = tuple((key, row[0]) for key, row in values.items() if len(set(row)) == 1)
    different = tuple((key, *row) for key, row in values.items() if len(set(row)) > 1)
    tables = [_overview(runs)]
    if different:
        tables.append(Table("In what the runs differ", ("option", *runs), different))
    title = "What all runs have in common" if len(runs) > 1 else "Options and versions"
    tables.append(Table(title, ("option", "value"), same))
    return tuple(tables)


def _overview(runs: Mapping[str, Run]) -> Table:
    rows = []
    for name, run in runs.items():
        best = max(run.log, key=lambda record: float(record["score"]))
        rows.append(
            (
                name,
                f"{len(run.log)} of {run.config.epochs}",
                str(best["epoch"]),
                f"{100 * best['validation_accuracy']:.1f}",
                f"{100 * best['validation_pgd_accuracy']:.1f}",
                str(run.config.seed),
                str(run.info.get("date", "–")),
                str(run.path),
            )
        )
    columns = ("model", "epochs", "best epoch", "validation", "validation, PGD", "seed", "begun", "folder")
    note = (
        "Validation: percent of the images kept apart from training, at the best epoch, whose weights are evaluated "
        "and drawn."
    )
    return Table("Runs", columns, tuple(rows), note)


def _facts(run: Run) -> dict[str, str]:
    """Options, versions, device and commit of a run by name, as text."""
    info = {key: value for key, value in run.info.items() if key not in _ASIDE}
    commit, dash, dirty = str(info.get("commit")).partition("-")
    info["commit"] = f"{commit[:12]}{dash}{dirty}"
    return {key: _text(value) for key, value in {**run.config.as_dict(), **_flatten(info)}.items()}


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}: {inner}": each for inner, each in value.items()})
        else:
            flat[key] = value
    return flat


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={each}" for key, each in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
