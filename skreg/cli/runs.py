"""`skreg runs`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from skreg import training
from skreg.cli.application import Json, command, print_json


@command
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder to look in, and below.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs with their state and the numbers of their best epoch.

    Example: skreg runs runs
    """
    found = training.list_runs(folder)
    if as_json:
        print_json([{**asdict(each), "path": str(each.path)} for each in found])
        return
    table = Table("run", "state", "data", "variant", "epochs", "best", "accuracy", "under PGD", "roughness D/E")
    for each in found:
        numbers = (each.validation_accuracy, each.validation_pgd_accuracy, each.roughness)
        table.add_row(
            escape(str(each.path.relative_to(folder))),
            each.state,
            each.data or "",
            each.variant or "",
            "" if each.epochs is None else f"{each.epochs_done}/{each.epochs}",
            "" if each.best_epoch is None else str(each.best_epoch),
            *("" if number is None else f"{number:.3f}" for number in numbers),
        )
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(table if found else f"{folder}: no runs here")
    for each in found:
        if each.problem:
            console.print(f"{each.path}: {each.problem}")
