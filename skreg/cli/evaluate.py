"""`skreg evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from skreg.cli.application import Json, command, print_json
from skreg.cli.attacks import NAMES_HELP, attack_names
from skreg.evaluation import (
    PRESETS,
    ConsoleProgress,
    as_dict,
    check_results_path,
    evaluate_runs,
    print_report,
    write_results,
)


@command
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders made by `skreg train`.")],
    attacks: Annotated[
        str,
        typer.Option(help=f"{NAMES_HELP} FGSM, PGD and a black-box search at the training eps come with any."),
    ] = "fast",
    limit: Annotated[
        int, typer.Option(help="The first so many test images, the same for all runs; 0 for all there are.")
    ] = 200,
    preset: Annotated[
        str,
        typer.Option(
            help=f"{' or '.join(PRESETS)}: search for the smallest adversarial as the paper did, or today's "
            "defaults of Foolbox 3."
        ),
    ] = PRESETS[0],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the results to this file too: .json, .csv, or .md for the tables."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Images attacked at once; so many at most are attacked again after an interruption.")
    ] = 128,
    seed: Annotated[int, typer.Option(help="Seed of the attacks.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    data_root: Annotated[
        str | None, typer.Option(help="Folder of the data set; by default the one used in training.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy and robustness of trained runs; keeps the result in RUN/evaluation.json.

    RUN/evaluation/ keeps every image's result: when interrupted, the same command goes on from there.

    Example: skreg evaluate runs/v runs/vr --attacks paper --limit 200
    """
    if output is not None:
        check_results_path(output)
        output.parent.mkdir(parents=True, exist_ok=True)  # now, not after hours of work
    if limit < 0:
        raise typer.BadParameter(f"--limit: expected a number of images, or 0 for all, found {limit}")
    try:
        with ConsoleProgress(Console(stderr=True)) as progress:
            evaluations = evaluate_runs(
                runs,
                attacks=attack_names(attacks),
                limit=limit or None,
                preset=preset,
                batch_size=batch_size,
                seed=seed,
                device=None if device == "auto" else device,
                data_root=data_root,
                progress=progress,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted; finished batches are kept in RUN/evaluation, and the same command goes on from there"
        ) from None
    if as_json:
        print_json([as_dict(evaluation) for evaluation in evaluations])
    else:
        print_report(evaluations, Console())
    if output is not None:  # last, so that a full disk hides nothing
        write_results(output, evaluations)
