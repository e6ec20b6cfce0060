"""`skreg info`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from skreg._installation import describe_installation
from skreg.cli.application import Json, command, print_json


@command
def info(
    data_root: Annotated[str | None, typer.Option(help="Folder to look for data sets in.")] = None,
    as_json: Json = False,
) -> None:
    """Show versions, the device, the build of the native op and the data sets found."""
    report = describe_installation(data_root)
    if as_json:
        print_json(report)
        return
    table = Table(show_header=False, box=None)
    for topic, facts in report.items():
        table.add_row(f"[bold]{topic}[/]", "")
        for name, value in facts.items():
            table.add_row(f"  {name}", escape(str(value)))
    Console().print(table)
