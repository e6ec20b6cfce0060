"""`skreg bands`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from skreg.cli.application import command
from skreg.evaluation.bands import BandResult, measure_bands, write_bands


@command
def bands(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders made by `skreg train`.")],
    limit: Annotated[int | None, typer.Option(help="Use so many test images only, the same for all.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the results to this CSV file too.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise and of the attacks' starts.")] = 0,
) -> None:
    """Accuracy under noise, blur, and attacks confined to low, middle and high frequencies.

    Example: skreg bands runs/v runs/vr --limit 500 --output bands.csv
    """
    if output is not None:
        if output.suffix != ".csv":
            raise typer.BadParameter(f"--output: expected a name that ends in .csv, found {output}")
        output.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    with Console(stderr=True).status("") as status:
        results = measure_bands(runs, limit=limit, seed=seed, progress=status.update)
    if output is not None:
        write_bands(output, results)
    Console(soft_wrap=True, highlight=False, markup=False).print(_table(results))


def _table(results: list[BandResult]) -> Table:
    """A row a perturbation, a column a run."""
    names = list(dict.fromkeys(each.run for each in results))
    table = Table("perturbation", "band", "size", *names, title="accuracy in percent, with 95% intervals")

    def perturbation(each: BandResult) -> tuple[str, str, float]:
        return each.kind, each.band, each.size

    first = [perturbation(each) for each in results if each.run == names[0]]
    ordered = sorted(results, key=lambda each: (first.index(perturbation(each)), names.index(each.run)))
    for (kind, band, size), row in groupby(ordered, key=perturbation):
        cells = [f"{each.accuracy.value:.1%} ({_percent(each)})" for each in row]
        table.add_row(kind, band, f"{size:g}" if size else "", *cells)
    return table


def _percent(result: BandResult) -> str:
    low, high = result.accuracy.interval
    return f"{100 * low:.0f}-{100 * high:.0f}"
