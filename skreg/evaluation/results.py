"""Evaluations on disk: as JSON and CSV for programs, or as Markdown for people."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skreg._version import __version__
from skreg.evaluation.checks import find_warnings
from skreg.evaluation.evaluate import Evaluation
from skreg.evaluation.proportion import Proportion
from skreg.evaluation.rendering import to_markdown
from skreg.training.checkpoint import RunError, write_file

KINDS = (".json", ".csv", ".md")
CSV_COLUMNS = (
    "model", "data", "column", "preset", "seed", "eps", "images", "right", "accuracy", "low", "high",
    "searches", "failed", "median_l0", "median_l2", "median_linf",
)  # fmt: skip


def write_results(path: str | os.PathLike[str], evaluations: Sequence[Evaluation]) -> None:
    """Write all `evaluations` to one file, whole or not at all.

    In .json a list of `as_dict`; in .csv a line for each accuracy of each model, see `as_rows`; in .md the tables.

    Raises:
        ValueError: the file's name ends in none of these.
        RunError: the file cannot be written.
    """
    path = Path(path)
    kind = check_results_path(path)
    if kind == ".json":
        write_json(path, [as_dict(evaluation) for evaluation in evaluations])
    elif kind == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for evaluation in evaluations for row in as_rows(evaluation))
        write_file(path, text.getvalue().encode())
    else:
        write_file(path, to_markdown(evaluations).encode())


def check_results_path(path: Path) -> str:
    """The kind of file that `write_results` makes of `path`: ".json", ".csv" or ".md".

    Raises:
        ValueError: the file's name ends in none of them.
        RunError: it is a folder, or lies where no file can be made.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{path}: the name must end in {', '.join(KINDS[:-1])} or {KINDS[-1]}, found {kind!r}")
    if path.is_dir():
        raise RunError(
            f"{path}: expected the name of a file, found a folder; choose another name, or one in that folder"
        )
    nearest = next(folder for folder in path.absolute().parents if folder.exists())  # those below it can be made
    if not nearest.is_dir():
        raise RunError(f"{path}: expected a folder to write it to, but {nearest} is a file; choose another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise RunError(f"{path}: expected a folder to write it to, but {nearest} is read-only; choose another place")
    return kind


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """`evaluation` as plain values for JSON, which has no infinity or NaN: both become None.

    Shares of images are written as count, total, value and 95% interval; the warnings come along.
    """
    record = {each.name: _plain(getattr(evaluation, each.name)) for each in dataclasses.fields(evaluation)}
    return {"skreg": __version__, **record, "warnings": find_warnings(evaluation)}


def as_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """A row for each accuracy of `evaluation`, with the columns `CSV_COLUMNS` as far as they apply.

    `column` is "clean", an attack's name, or one of the fields that end in "_at_eps" or "_at_one"; `eps` is the linf
    radius that counts, empty for any distance; `low` and `high` are the 95% interval; a median is inf where most
    searches failed.
    """

    def row(column: str, share: Proportion, eps: float | None, **more: Any) -> dict[str, Any]:
        low, high = share.interval
        return {
            "model": evaluation.name,
            "data": evaluation.data,
            "column": column,
            "seed": evaluation.seed,
            "eps": "" if eps is None else eps,
            "images": share.total,
            "right": share.count,
            "accuracy": share.value,
            "low": low,
            "high": high,
            **more,
        }

    rows = [row("clean", evaluation.clean, 0.0)]
    for each in evaluation.attacks:
        more = {name: getattr(each, name) for name in CSV_COLUMNS if hasattr(each, name)}
        eps = evaluation.eps if evaluation.is_fixed(each.attack) else evaluation.bound
        del more["accuracy"]
        rows.append(row(each.attack, each.accuracy, eps, preset=evaluation.preset, **more))
    for field in dataclasses.fields(evaluation):
        share = getattr(evaluation, field.name)
        if field.name.endswith(("_at_eps", "_at_one")) and share is not None:
            rows.append(row(field.name, share, 1.0 if field.name.endswith("_at_one") else evaluation.eps))
    return rows


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` as JSON, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    write_file(Path(path), (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def _plain(value: Any) -> Any:
    if isinstance(value, Proportion):
        record = {
            "count": value.count,
            "total": value.total,
            "value": value.value,
            "interval": value.interval,
        }
        return {key: _plain(item) for key, item in record.items()}
    if dataclasses.is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
