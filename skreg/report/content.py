"""What a report says of trained runs, before it becomes a page: tables, checks, figures, and how all was made."""

from __future__ import annotations

import datetime
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from skreg._installation import git_commit, versions
from skreg.evaluation import Table, build_tables, has_results, is_evaluated, list_warnings, read_evaluation
from skreg.figures import Drawing, draw
from skreg.figures.gallery import OF_EVALUATIONS, figure_names
from skreg.figures.lineup import check_runs, line_up
from skreg.report.setup import describe_setup
from skreg.training import Run, RunError


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
        only, seed, quick, device, data_root, numbers, progress: as in `skreg.figures.draw`.

    Raises:
        ValueError: no runs, the same folder twice, an unknown figure, or runs of one data set evaluated with
            different attacks.
        RunError: a run has no finished epoch, damaged files, or an evaluation of other weights.
    """
    check_runs(runs)
    names = figure_names(only)
    for run in runs:
        if not run.log:
            raise RunError(f"{run.path} has no finished epoch: train on with --resume, or leave it out")
    groups = group_by_data(runs)
    # All tables first, because drawing takes minutes and a wrong evaluation should be known before.
    sections = [_describe(data, group) for data, group in groups.items()]
    draw_some = partial(
        draw, seed=seed, quick=quick, device=device, data_root=data_root, numbers=numbers, progress=progress
    )
    drawn = [
        replace(section, drawings=_draw_group(group, names, draw_some))
        for section, group in zip(sections, groups.values(), strict=True)
    ]
    return Report(title or f"Smooth kernels on {' and '.join(groups)}", tuple(drawn), _describe_report(seed, quick))


def group_by_data(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each data set, in the order in which they come."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.config.data, []).append(run)
    return groups


def _draw_group(
    runs: Sequence[Run], names: Sequence[str], draw_some: Callable[..., Iterable[Drawing]]
) -> tuple[Drawing, ...]:
    """The figures of one data set, first those of the runs that were attacked."""
    attacked = [run for run in runs if has_results(run)]
    drawings: list[Drawing] = []
    for chosen, only in (
        (attacked, [name for name in names if name in OF_EVALUATIONS]),
        (runs, [name for name in names if name not in OF_EVALUATIONS]),
    ):
        if chosen and only:
            drawings += draw_some(chosen, only=only)
    return tuple(drawings)


def _describe(data: str, runs: Sequence[Run]) -> Section:
    """Everything but the figures."""
    named = line_up(runs).runs
    evaluations = [replace(read_evaluation(run), name=name) for name, run in named.items() if is_evaluated(run)]
    missing = [
        f"{name} has no finished evaluation; tables{'' if has_results(run) else ' and accuracy curves'} are without "
        f"it. Run: {shlex.join(['skreg', 'evaluate', os.fspath(run.path)])}"
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
