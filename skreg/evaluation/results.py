"""Evaluations on disk: as JSON for programs, or as Markdown for people."""

from __future__ import annotations

import dataclasses
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
from skreg.evaluation.table import to_markdown
from skreg.training.checkpoint import write_file


def write_results(path: str | os.PathLike[str], evaluations: Sequence[Evaluation]) -> None:
    """Write all `evaluations` to one file, whole or not at all: a list in .json, the tables in .md.

    Raises:
        ValueError: the file's name ends in neither.
        RunError: the file cannot be written.
    """
    path = Path(path)
    kind = check_results_path(path)
    if kind == ".json":
        write_json(path, [as_dict(evaluation) for evaluation in evaluations])
    else:
        write_file(path, to_markdown(evaluations).encode())


def check_results_path(path: Path) -> str:
    """The kind of file that `write_results` makes of `path`: ".json" or ".md".

    Raises:
        ValueError: the file's name ends in neither.
    """
    kind = path.suffix.lower()
    if kind not in (".json", ".md"):
        raise ValueError(f"{path}: the name must end in .json or .md, found {kind!r}")
    return kind


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """`evaluation` as plain values for JSON, which has no infinity or NaN: both become None.

    Shares of images are written as count, total, value and 95% interval; the warnings come along.
    """
    record = {each.name: _plain(getattr(evaluation, each.name)) for each in dataclasses.fields(evaluation)}
    return {"skreg": __version__, **record, "warnings": find_warnings(evaluation)}


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
