"""`skreg reproduce`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from skreg.cli.application import PLAIN, Json, command, parse_assignments, print_json, split_names
from skreg.cli.attacks import NAMES_HELP, attack_names
from skreg.evaluation import as_dict, print_report
from skreg.evaluation.planned import check_attacks
from skreg.reproduction import GAMMAS, PAPER_VARIANTS, QUICK_RECIPES, RECIPES, STRENGTHS, TUNED_OPTIONS, Options, Recipe
from skreg.reproduction import reproduce as run_stages
from skreg.reproduction.folder import finished_besides
from skreg.training import VARIANTS


@command
def reproduce(
    data: Annotated[str, typer.Argument(metavar="DATASET", help=f"{', '.join(RECIPES)}.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to make or to go on with; by default reproduction/DATASET."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The same stages on few images, in minutes.")] = False,
    only: Annotated[str | None, typer.Option(help="Variants, separated by commas; by default all twelve.")] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help=f"The variants of the paper's Table 1: {', '.join(PAPER_VARIANTS)}.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Number of seeds a variant.")] = 1,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help=f"Choose gamma among {GAMMAS} and the strength among {STRENGTHS} (over the mean of a layer's "
            "kernels) on validation images first.",
        ),
    ] = False,
    attacks: Annotated[str | None, typer.Option(help=f"Attacks in place of the recipe's. {NAMES_HELP}")] = None,
    limit: Annotated[int | None, typer.Option(help="Attack so many test images in place of the recipe's.")] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[VARIANT.]KEY=VALUE",
            help="Train all variants, or one, with this in place of the recipe's, such as epochs=5 or TR.strength=10; "
            "keys are those of config.json. May be repeated.",
        ),
    ] = None,
    nproc: Annotated[int, typer.Option(help="Processes a training; more than one are started by torchrun.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    data_root: Annotated[
        str | None,
        typer.Option(help="Folder of the data set; without it $SKREG_DATA and the system's folders are searched."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train and evaluate the paper's variants on a data set with recorded recipes, and write OUTPUT/report.

    Stop it at any time: the same command goes on from what is finished.

    Example: skreg reproduce four-shapes --quick
    """
    if data not in RECIPES:
        raise typer.BadParameter(f"DATASET: expected one of {', '.join(RECIPES)}, found {data!r}")
    if paper and only is not None:
        raise typer.BadParameter("--paper: expected no --only beside it; it stands for eight variants")
    named = split_names(only)
    variants = named if named is not None else PAPER_VARIANTS if paper else VARIANTS
    folder = output or Path("reproduction", data)
    try:
        recipe = _assigned(_recipe(data, quick, attacks, limit), assign, tune)
        options = Options(variants=variants, seeds=seeds, tune=tune, nproc=nproc, device=device, data_root=data_root)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    evaluations = run_stages(recipe, folder, options)
    if as_json:
        print_json([as_dict(evaluation) for evaluation in evaluations])
    else:
        console = Console()
        print_report(evaluations, console)
        console.print(f"report: {(folder / 'report').resolve()}", **PLAIN)
    if others := finished_besides(folder, [evaluation.name for evaluation in evaluations]):
        text = f"left out of the report, as neither --only nor --seeds asks for them: {', '.join(others)}"
        Console(stderr=True).print(text, **PLAIN)


def _recipe(data: str, quick: bool, attacks: str | None, limit: int | None) -> Recipe:
    recipe = (QUICK_RECIPES if quick else RECIPES)[data]
    if attacks is not None:
        recipe = dataclasses.replace(recipe, attacks=tuple(attack_names(attacks)))
    if limit is not None:
        recipe = dataclasses.replace(recipe, test_images=limit)
    check_attacks(recipe.attacks, "paper")
    if recipe.test_images < 1:
        raise ValueError(f"--limit: expected at least 1, found {recipe.test_images}")
    return recipe


def _assigned(recipe: Recipe, assign: list[str] | None, tune: bool) -> Recipe:
    """The recipe with what `--set` says for all variants, then with what it says for single ones."""
    shared: dict[str, Any] = {}
    by_variant: dict[str, dict[str, Any]] = {}
    for key, value in parse_assignments("--set", assign).items():
        variant, point, option = key.rpartition(".")
        if point and variant not in VARIANTS:
            raise ValueError(f"--set {key}: expected one of {', '.join(VARIANTS)} before the point, found {variant!r}")
        if tune and option in TUNED_OPTIONS:
            raise ValueError(f"--set {key}: --tune chooses {option}, so that it cannot be set; leave one of them out")
        (by_variant.setdefault(variant, {}) if point else shared)[option] = value
    return recipe.with_training(shared).with_variants(by_variant)
