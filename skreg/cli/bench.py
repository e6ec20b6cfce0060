"""`skreg bench`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from skreg.benchmark import (
    SECTIONS,
    WEIGHT_SETS,
    build_cases,
    describe_machine,
    plot_size,
    print_attacks,
    print_measurements,
    print_steps,
    print_training,
    run_attacks,
    run_cases,
    run_steps,
    run_training,
    write_csv,
)
from skreg.benchmark.attacks import IMAGES as ATTACK_IMAGES
from skreg.benchmark.steps import NETS as STEP_NETS
from skreg.benchmark.training import CONTENDERS as TRAINING_CONTENDERS
from skreg.benchmark.training import LOSS_NAMES as TRAINING_LOSSES
from skreg.benchmark.training import NETS as TRAINING_NETS
from skreg.benchmark.training import TrainingMeasurement
from skreg.cli.application import Json, command, print_json, split_names
from skreg.figures import save as save_figure


@command
def bench(
    sections: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SECTION...", help=f"Of {', '.join(SECTIONS)}, all by default; or attacks, step or training alone."
        ),
    ] = None,
    weights: Annotated[str, typer.Option(help="Nets whose conv weights are measured, separated by commas.")] = ",".join(
        WEIGHT_SETS
    ),
    attacks: Annotated[
        str, typer.Option(help="Attacks that the section attacks measures, separated by commas.")
    ] = ",".join(ATTACK_IMAGES),
    losses: Annotated[
        str, typer.Option(help="Losses that the section training measures, separated by commas.")
    ] = ",".join(TRAINING_LOSSES),
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default as many as torch takes.")] = None,
    rounds: Annotated[int, typer.Option(help="Samples a contender.")] = 30,
    seconds: Annotated[float, typer.Option(help="Most time for the rounds of one case.")] = 10.0,
    compiled: Annotated[
        bool,
        typer.Option("--compile/--no-compile", help="Measure torch.compile too, which compiles for minutes."),
    ] = True,
    csv: Annotated[Path | None, typer.Option(help="Write all measurements to this file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw time against the number of weights: .png, .pdf or .svg.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights and of the order of measuring.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    as_json: Json = False,
) -> None:
    """Measure the penalty beside PyTorch alone and beside a copy of the weights, whole training steps, or attacks.

    Example: skreg bench penalty --weights resnet18_cifar --threads 2 --no-compile

    `skreg bench step` compares training steps with and without the regularizer, `skreg bench training` a step of
    TRADES and of adversarial training with plain loops, `skreg bench attacks` attacks with plain calls of Foolbox 3.
    """
    names = split_names(weights)
    for alone in ("attacks", "step", "training"):
        if alone in (sections or ()) and (sections != [alone] or plot is not None or device != "cpu"):
            raise typer.BadParameter(f"{alone}: expected no other section, no --plot, and --device cpu")
    threads = torch.get_num_threads() if threads is None else threads
    sampling: dict[str, Any] = {"rounds": rounds, "seconds": seconds, "seed": seed}
    if sections == ["attacks"]:
        _make_folders(csv)
        with Console(stderr=True).status("") as status:
            attacked = run_attacks(split_names(attacks), threads=threads, **sampling, progress=status.update)
        _finish(attacked, describe_machine(), csv, as_json, print_attacks)
        return
    if sections == ["step"]:
        _make_folders(csv)
        nets = list(STEP_NETS) if names == list(WEIGHT_SETS) else names
        with Console(stderr=True).status("") as status:
            steps = run_steps(nets, threads=threads, **sampling, progress=status.update)
        _finish(steps, describe_machine(), csv, as_json, print_steps)
        return
    if sections == ["training"]:
        _make_folders(csv)
        nets = list(TRAINING_NETS) if names == list(WEIGHT_SETS) else names
        training_steps = _measure_training(nets, split_names(losses), threads, compiled, sampling)
        _finish(training_steps, describe_machine(), csv, as_json, print_training)
        return
    cases = build_cases(sections or (), names, threads=threads, compiled=compiled)
    if plot is not None and not any(case.section == "size" for case in cases):
        raise typer.BadParameter("--plot: expected the section size among those to measure")
    _make_folders(csv, plot)
    with Console(stderr=True).status("") as status:
        measurements = run_cases(cases, device=device, **sampling, progress=status.update)
    machine = describe_machine(device)
    _finish(measurements, machine, csv, as_json, print_measurements)
    if plot is not None:
        save_figure(plot_size(measurements, machine), plot)


def _make_folders(*paths: Path | None) -> None:
    """Make the folders of the results before the measuring, not after minutes of work."""
    for path in paths:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)


def _measure_training(
    nets: list[str], losses: list[str], threads: int, compiled: bool, sampling: dict[str, Any]
) -> list[TrainingMeasurement]:
    contenders = [name for name, (_, _, compile_) in TRAINING_CONTENDERS.items() if compiled or not compile_]
    measurements = []
    with Console(stderr=True).status("") as status:
        for net in nets:
            measurements += run_training(
                [net],
                threads=threads,
                # A step of ResNet-18 on 128 images takes a minute on two cores.
                batch_size=128 if net == "two_conv" else 2,
                losses=losses,
                contenders=contenders,
                **sampling,
                progress=status.update,
            )
    return measurements


def _finish(
    measurements: list[Any],
    machine: Mapping[str, str | int],
    csv: Path | None,
    as_json: bool,
    show: Callable[[list[Any], Mapping[str, str | int], Console], None],
) -> None:
    if csv is not None:
        write_csv(csv, measurements, machine)
    if as_json:
        print_json({"machine": machine, "measurements": [asdict(each) for each in measurements]})
    else:
        show(measurements, machine, Console())
