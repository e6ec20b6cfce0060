"""`skreg evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from skreg.cli.application import Json, command, print_json
from skreg.evaluation import (
    ATTACKS,
    PRESETS,
    as_dict,
    check_results_path,
    evaluate_runs,
    print_report,
    write_results,
)


@command
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders made by `skreg train`.")],
    attacks: Annotated[str, typer.Option(help="Attacks, separated by commas.", show_default=True)] = ",".join(ATTACKS),
    limit: Annotated[int | None, typer.Option(help="Use so many test images only, the same for all.")] = None,
    preset: Annotated[
        str,
        typer.Option(
            help=f"{' or '.join(PRESETS)}: search for the smallest adversarial as the paper did, or today's "
            "defaults of Foolbox 3."
        ),
    ] = PRESETS[0],
    output: Annotated[
        Path | None, typer.Option(help="Write the results to this file too: .json, or .md for the tables.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images attacked at once.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed of the attacks.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    data_root: Annotated[
        str | None, typer.Option(help="Folder of the data set; by default the one used in training.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy and robustness of trained runs; keeps the result in RUN/evaluation.json.

    Example: skreg evaluate runs/v runs/vr --attacks fgsm,pgd --limit 200
    """
    if output is not None:
        check_results_path(output)
        output.parent.mkdir(parents=True, exist_ok=True)  # now, not after hours of work
    with Console(stderr=True).status("") as status:
        evaluations = evaluate_runs(
            runs,
            attacks=[name.strip() for name in attacks.split(",") if name.strip()],
            limit=limit,
            preset=preset,
            batch_size=batch_size,
            seed=seed,
            device=None if device == "auto" else device,
            data_root=data_root,
            progress=status.update,
        )
    if output is not None:
        write_results(output, evaluations)
    if as_json:
        print_json([as_dict(evaluation) for evaluation in evaluations])
    else:
        print_report(evaluations, Console())
