"""`skreg report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from skreg import training
from skreg.cli.application import command
from skreg.figures import FIGURES
from skreg.report import FORMATS, build_report, check_output, write_report


@command
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders made by `skreg train`.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page to write; its folder is made. For png a folder.")
    ] = Path("report.html"),
    format: Annotated[
        str | None, typer.Option(help=f"{', '.join(FORMATS)}; by default what the output's name says.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="The page's title; by default it names the data sets.")] = None,
    only: Annotated[
        str | None,
        typer.Option(
            help=f"Figures, separated by commas: {', '.join(FIGURES)}. By default those that `skreg figures` draws."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer images and steps in the figures.")] = False,
    numbers: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps what took long to compute, such as FOLDER/numbers of `skreg figures`."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random in the figures.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    data_root: Annotated[
        str | None, typer.Option(help="Folder of the data set; by default the one used in training.")
    ] = None,
) -> None:
    """Make one self-contained page of trained runs: tables, checks, all figures, and how they were made.

    Example: skreg report runs/v runs/vr --output report.html
    """
    try:
        kind = check_output(output, format)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with Console(stderr=True).status("") as status:
        made = build_report(
            [training.load_run(path) for path in runs],
            title=title,
            only=None if only is None else [name.strip() for name in only.split(",") if name.strip()],
            seed=seed,
            quick=quick,
            device=None if device == "auto" else device,
            data_root=data_root,
            numbers=numbers,
            progress=status.update,
        )
        status.update("writing")
        write_report(made, output, kind)
    Console(soft_wrap=True, highlight=False, markup=False).print(str(output))
