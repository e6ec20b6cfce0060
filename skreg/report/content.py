"""What a report says of trained runs, before it becomes a page: tables, checks, figures, and how all was made."""

from __future__ import annotations

import datetime
import os
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from skreg._installation import git_commit, versions
from skreg.evaluation import Table, build_tables, has_results, is_evaluated, list_warnings, read_evaluation
from skreg.figures import FIGURES, Drawing, draw
from skreg.figures.lineup import line_up
from skreg.report.setup import describe_setup
from skreg.training import Run, RunError

_OF_EVALUATED_RUNS = ("curves",)  # figures that need what `skreg evaluate` keeps


@dataclass(frozen=True)
class Section:
    """The runs of one data set.

    Attributes:
        data: name of the data set.
        tables: what was measured; none where no run is evaluated.
        warnings: why some numbers should not be taken at face value; empty when all checks passed.
        missing: sentences on what cannot be shown, and what to run.
        drawings: the figures.
        setup: tables of the runs, their options and versions.
        commands: by run, the command that trained it.
    """

    data: str
    tables: tuple[Table, ...]
    warnings: tuple[str, ...]
    missing: tuple[str, ...]
    drawings: tuple[Drawing, ...]
    setup: tuple[Table, ...]
    commands: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """A title, a section a data set, and what made the report: command, versions, seed, date."""

    title: str
    sections: tuple[Section, ...]
    made: Mapping[str, str]


def build_report(
    runs: Sequence[Run],
    *,
    title: str | None = None,
    only: Collection[str] | None = None,
    seed: int = 0,
    quick: bool = False,
    device: str | torch.device | None = None,
    data_root: str | os.PathLike[str] | None = None,
    numbers: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Collect tables and draw all figures of `runs`.

    A run that is not evaluated is in the figures that need no evaluation; the report says what to run.

    Args:
        runs: of one or several data sets, each with a finished epoch.
        title: None for one that names the data sets.
        only: names in `skreg.figures.FIGURES`; None for all, an empty collection for none.
        seed, quick, device, data_root, numbers, progress: as in `skreg.figures.draw`.

    Raises:
        ValueError: no runs, the same folder twice, an unknown figure, or runs of one data set evaluated with
            different attacks.
        RunError: a run has no finished epoch, damaged files, or an evaluation of other weights.
    """
    if not runs:
        raise ValueError("runs: expected at least one, found none")
    names = list(FIGURES) if only is None else list(only)
    if unknown := [name for name in names if name not in FIGURES]:
        raise ValueError(f"only: expected names among {', '.join(FIGURES)}, found {', '.join(map(repr, unknown))}")
    for run in runs:
        if not run.log:
            raise RunError(f"{run.path} has no finished epoch: train on with --resume, or leave it out")
    told = progress or (lambda step: None)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.config.data, []).append(run)
    # All tables first, because drawing takes minutes and a wrong evaluation should be known before.
    sections = [_describe(data, group) for data, group in groups.items()]
    for index, group in enumerate(groups.values()):

        def draw_some(chosen: Sequence[Run], only: Collection[str]) -> list[Drawing]:
            if not (chosen and only):
                return []
            drawings = draw(
                chosen,
                only=only,
                seed=seed,
                quick=quick,
                device=device,
                data_root=data_root,
                numbers=numbers,
                progress=told,
            )
            return list(drawings)

        attacked = [run for run in group if has_results(run)]
        drawings = draw_some(attacked, [name for name in names if name in _OF_EVALUATED_RUNS])
        drawings += draw_some(group, [name for name in names if name not in _OF_EVALUATED_RUNS])
        sections[index] = replace(sections[index], drawings=tuple(drawings))
    return Report(title or f"Smooth kernels on {' and '.join(groups)}", tuple(sections), _describe_report(seed, quick))


def _describe(data: str, runs: Sequence[Run]) -> Section:
    """Everything but the figures."""
    named = line_up(runs).runs
    evaluations = [replace(read_evaluation(run), name=name) for name, run in named.items() if is_evaluated(run)]
    missing = [
        f"{name} is not evaluated, so it has no accuracy under attack and no accuracy curves here; "
        f"run: {shlex.join(['skreg', 'evaluate', os.fspath(run.path)])}"
        for name, run in named.items()
        if not is_evaluated(run)
    ]
    return Section(
        data=data,
        tables=tuple(build_tables(evaluations)) if evaluations else (),
        warnings=tuple(list_warnings(evaluations)),
        missing=tuple(missing),
        drawings=(),
        setup=describe_setup(named),
        commands={name: str(run.info.get("command", "unknown")) for name, run in named.items()},
    )


def _describe_report(seed: int, quick: bool) -> dict[str, str]:
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": git_commit() or "none: an installed package",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "seed of the figures": str(seed),
        "figures": "quick: fewer images and steps, as the captions say" if quick else "in full",
    }
