"""`skreg report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from skreg.cli.application import PLAIN, command, split_names
from skreg.figures import FIGURES, describe_estimate, estimate_seconds
from skreg.figures.gallery import ON_REQUEST
from skreg.report import FOLDERS, FORMATS, build_report, check_output, write_report
from skreg.report.content import group_by_data
from skreg.reproduction import is_reproduction, load_runs
from skreg.reproduction.folder import REPORT_FOLDER


@command
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of `skreg train` or `skreg reproduce`.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The page to write, or the folder for png and all; it is made. By default report.html or, for one "
            "folder of `skreg reproduce`, all in its report/.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(FORMATS)}; by default what the output's name says. all: page, PDF and pictures."
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="The page's title; by default it names the data sets.")] = None,
    only: Annotated[
        str | None,
        typer.Option(
            help=f"Figures, separated by commas: {', '.join(FIGURES)}; or default, which is all but "
            f"{', '.join(ON_REQUEST)}; or all."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer images and steps in the figures.")] = False,
    numbers: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps what took long to compute, such as FOLDER/numbers of `skreg figures`; by default "
            "numbers/ in an output that is a folder."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random in the figures.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    data_root: Annotated[
        str | None, typer.Option(help="Folder of the data set; by default the one used in training.")
    ] = None,
) -> None:
    """Make one self-contained page of trained runs: tables, checks, all figures, and how they were made.

    Example: skreg report runs/v runs/vr --output report.html

    All that a reproduction can show: skreg report reproduction/four-shapes --only all
    """
    if output is None:
        whole = len(runs) == 1 and is_reproduction(runs[0])
        output = runs[0] / REPORT_FOLDER if whole else Path("report.html")
        format = format or ("all" if whole else None)
    try:
        kind = check_output(output, format)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if numbers is None and kind in FOLDERS:
        numbers = output / "numbers"
    with Console(stderr=True).status("") as status:
        loaded, names, where = load_runs(runs), split_names(only), None if device == "auto" else device
        seconds: dict[str, float] = {}
        for group in group_by_data(loaded).values():
            found = estimate_seconds(group, only=names, quick=quick, device=where, data_root=data_root)
            seconds = {name: seconds.get(name, 0.0) + each for name, each in found.items()}
        kept = f", less what {numbers} keeps" if numbers else ""
        status.console.print(f"{describe_estimate(seconds)}{kept}", **PLAIN)
        made = build_report(
            loaded,
            title=title,
            only=names,
            seed=seed,
            quick=quick,
            device=where,
            data_root=data_root,
            numbers=numbers,
            progress=status.update,
        )
        status.update("writing")
        write_report(made, output, kind)
    Console().print(str(output), **PLAIN)
