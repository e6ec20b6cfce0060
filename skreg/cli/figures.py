"""`skreg figures`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from skreg.cli.application import PLAIN, command, split_names
from skreg.figures import describe_estimate, draw, estimate_seconds, save
from skreg.figures.gallery import FIGURES, ON_REQUEST
from skreg.reproduction import load_runs
from skreg.training.checkpoint import write_file

FORMATS = ("png", "pdf", "svg")
NUMBERS_FOLDER = "numbers"


@command
def figures(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of `skreg train` or `skreg reproduce`.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures; it is made.")],
    only: Annotated[
        str | None,
        typer.Option(
            help=f"Figures, separated by commas: {', '.join(FIGURES)}; or default, which is all but "
            f"{', '.join(ON_REQUEST)}; or all."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer images and steps.")] = False,
    format: Annotated[str, typer.Option(help=f"{', '.join(FORMATS)}.")] = FORMATS[0],
    dpi: Annotated[int, typer.Option(help="Dots an inch.")] = 150,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    data_root: Annotated[
        str | None, typer.Option(help="Folder of the data set; by default the one used in training.")
    ] = None,
) -> None:
    """Draw the paper's figures of trained runs of one data set, and figures.md with the captions of those drawn.

    FOLDER/numbers/ keeps what took long to compute, so that drawing again is quick and goes on where it was stopped.

    Example: skreg figures runs/v runs/vr --output figures --only kernels
    """
    if format not in FORMATS:
        raise typer.BadParameter(f"--format: expected one of {', '.join(FORMATS)}, found {format!r}")
    if dpi < 1:
        raise typer.BadParameter(f"--dpi: expected at least 1, found {dpi}")
    with Console(stderr=True).status("") as status:
        loaded, names, where = load_runs(runs), split_names(only), None if device == "auto" else device
        seconds = estimate_seconds(loaded, only=names, quick=quick, device=where, data_root=data_root)
        status.console.print(f"{describe_estimate(seconds)}, less what {output / NUMBERS_FOLDER} keeps", **PLAIN)
        drawings = draw(
            loaded,
            only=names,
            seed=seed,
            quick=quick,
            device=where,
            data_root=data_root,
            numbers=output / NUMBERS_FOLDER,
            progress=status.update,
        )
        output.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
        page = []
        for drawing in drawings:
            file = output / f"{drawing.name}.{format}"
            save(drawing.figure, file, dpi=dpi)
            page.append(f"## {drawing.title}\n\n![{drawing.alt}]({file.name})\n\n{drawing.caption}\n")
            write_file(output / "figures.md", "\n".join(page).encode())  # each time: the next may be interrupted
            status.console.print(str(file), **PLAIN)
