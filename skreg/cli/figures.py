"""`skreg figures`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from skreg import training
from skreg.cli.application import command
from skreg.figures import draw, save
from skreg.figures.gallery import FIGURES, ON_REQUEST, SLOW
from skreg.training.checkpoint import write_file

FORMATS = ("png", "pdf", "svg")
NUMBERS_FOLDER = "numbers"


@command
def figures(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders made by `skreg train`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures; it is made.")],
    only: Annotated[
        str | None,
        typer.Option(
            help=f"Figures, separated by commas: {', '.join(FIGURES)}. By default all but {', '.join(ON_REQUEST)} "
            f"and, with --quick, {', '.join(SLOW)}."
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
        drawings = draw(
            [training.load_run(path) for path in runs],
            only=None if only is None else [name.strip() for name in only.split(",") if name.strip()],
            seed=seed,
            quick=quick,
            device=None if device == "auto" else device,
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
            status.console.print(str(file), highlight=False, markup=False, soft_wrap=True)
