"""The command line: each command parses its options, calls the library and prints the result."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from skreg import training
from skreg._installation import describe_installation
from skreg._version import __version__
from skreg.benchmark import (
    SECTIONS,
    WEIGHT_SETS,
    build_cases,
    describe_machine,
    plot_size,
    print_measurements,
    print_steps,
    print_training,
    run_cases,
    run_steps,
    run_training,
    write_csv,
)
from skreg.benchmark.steps import NETS as STEP_NETS
from skreg.benchmark.training import CONTENDERS as TRAINING_CONTENDERS
from skreg.benchmark.training import NETS as TRAINING_NETS
from skreg.data import DATASETS
from skreg.evaluation import (
    ATTACKS,
    PRESETS,
    as_dict,
    check_results_path,
    evaluate_runs,
    print_report,
    write_results,
)
from skreg.figures import save as save_figure
from skreg.models import NETS
from skreg.training import SCHEDULES, ConsoleProgress, TrainConfig

app = typer.Typer(
    name="skreg",
    help="Smooth-kernel regularization of convolutional networks: train, evaluate, compare.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_debug = False


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register `function` as a command; what it raises becomes one line on stderr and exit status 1.

    Ctrl-C ends with status 130, SIGTERM in training with 143, usage errors (`typer.BadParameter`) with 2.
    `skreg --debug` lets every exception through with its traceback.
    """

    @functools.wraps(function)
    def reporting(*args: Any, **options: Any) -> None:
        try:
            function(*args, **options)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt as interrupt:
            print_error("stopped", str(interrupt) or "interrupted")
            raise typer.Exit(143 if isinstance(interrupt, training.Terminated) else 130) from None
        except Exception as error:
            if _debug:
                raise
            print_error("error", _one_line(error))
            raise typer.Exit(1) from None

    app.command()(reporting)
    return reporting


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    expected = (ValueError, TypeError, OSError, RuntimeError, ImportError, ArithmeticError, MemoryError)
    if isinstance(error, expected) and text:
        return text
    # Anything else is a fault of ours: its type says more than its text, and the traceback says the rest.
    return f"{type(error).__name__}: {text} (run `skreg --debug ...` to see where)"


def print_error(kind: str, text: str) -> None:
    """Print one red line on stderr."""
    console = Console(stderr=True)
    console.print(f"{kind}: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print `value` as JSON on stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def parse_assignments(option: str, pairs: list[str] | None) -> dict[str, Any]:
    """Turn `["a=1", "b=text"]` into `{"a": 1, "b": "text"}`; values are JSON where they can be.

    Raises:
        typer.BadParameter: a pair without `=`.
    """
    values: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"{option}: expected key=value, found {pair!r}")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"skreg {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    global _debug
    _debug = debug


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]

_DATA = "Data and net"
_OPTIMIZATION = "Optimization"
_PENALTY = "Penalty"
_ATTACK = "Adversarial training (T, A, L)"
_VALIDATION = "Validation"
_MACHINE = "Speed and reproducibility"


@command
def train(
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")],
    output: Annotated[Path, typer.Option(help="Run folder to make, or to go on with (--resume).")],
    variant: Annotated[
        str,
        typer.Option(
            help="Loss and sign of the penalty: V cross-entropy, T TRADES, A adversarial training or L logit "
            "pairing; then R to make kernels smooth, H to make them rough, or nothing."
        ),
    ] = TrainConfig.variant,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = TrainConfig.epochs,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
    as_json: Json = False,
    data_root: Annotated[
        str | None,
        typer.Option(
            help="Folder of the data set; without it $SKREG_DATA and the system's folders are searched.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use so many training images only.", rich_help_panel=_DATA)] = None,
    net: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(NETS)}; by default the one of the data set.", rich_help_panel=_DATA),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Images a step.", rich_help_panel=_OPTIMIZATION)
    ] = TrainConfig.batch_size,
    optimizer: Annotated[
        str,
        typer.Option(
            help="adam, adamw, sgd, or the exact name of a class in torch.optim.",
            rich_help_panel=_OPTIMIZATION,
        ),
    ] = TrainConfig.optimizer,
    optimizer_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Argument of the optimizer, such as weight_decay=1e-4. May be repeated.",
            rich_help_panel=_OPTIMIZATION,
        ),
    ] = None,
    learning_rate: Annotated[
        float, typer.Option(help="Learning rate; the peak with onecycle.", rich_help_panel=_OPTIMIZATION)
    ] = TrainConfig.learning_rate,
    schedule: Annotated[
        str,
        typer.Option(help=f"Learning rate over time: {', '.join(SCHEDULES)}.", rich_help_panel=_OPTIMIZATION),
    ] = TrainConfig.schedule,
    schedule_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Argument of the schedule, such as milestones=[10,15] (in epochs). May be repeated.",
            rich_help_panel=_OPTIMIZATION,
        ),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(help="|lambda|, the weight of the penalty (R and H only).", rich_help_panel=_PENALTY),
    ] = TrainConfig.strength,
    normalize: Annotated[
        str,
        typer.Option(help="Score of a kernel: subtract (D - E), divide (D / E) or none (D).", rich_help_panel=_PENALTY),
    ] = "subtract",
    exponentiate: Annotated[
        str,
        typer.Option(help="exp of the score per kernel, per layer, or none.", rich_help_panel=_PENALTY),
    ] = "kernel",
    reduction: Annotated[
        str, typer.Option(help="sum or mean over a layer's kernels.", rich_help_panel=_PENALTY)
    ] = TrainConfig.reduction,
    connectivity: Annotated[
        int, typer.Option(help="Neighbours: 1 along the axes, 2 diagonals too.", rich_help_panel=_PENALTY)
    ] = TrainConfig.connectivity,
    max_exponent: Annotated[
        float | None,
        typer.Option(help="exp goes on as a line above this exponent.", rich_help_panel=_PENALTY),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Penalise the weights that match, such as 'conv1.*'. May be repeated.",
            rich_help_panel=_PENALTY,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave out the weights that match. May be repeated.",
            rich_help_panel=_PENALTY,
        ),
    ] = None,
    eps: Annotated[
        float | None,
        typer.Option(
            help="linf bound of the attack, in validation too, pixels in [0, 1]; by default the data set's.",
            rich_help_panel=_ATTACK,
        ),
    ] = None,
    attack_steps: Annotated[int, typer.Option(help="PGD steps.", rich_help_panel=_ATTACK)] = TrainConfig.attack_steps,
    step_size: Annotated[
        float | None,
        typer.Option(help="PGD step, pixels in [0, 1]; by default 2.5 eps / steps.", rich_help_panel=_ATTACK),
    ] = None,
    gamma: Annotated[
        float, typer.Option(help="Weight of the KL term (T and L).", rich_help_panel=_ATTACK)
    ] = TrainConfig.gamma,
    validation_fraction: Annotated[
        float,
        typer.Option(
            help="Share of the training images kept apart to choose the best epoch.",
            rich_help_panel=_VALIDATION,
        ),
    ] = TrainConfig.validation_fraction,
    validation_attack_steps: Annotated[
        int, typer.Option(help="PGD steps in validation.", rich_help_panel=_VALIDATION)
    ] = TrainConfig.validation_attack_steps,
    validation_attack_images: Annotated[
        int, typer.Option(help="Validation images to attack.", rich_help_panel=_VALIDATION)
    ] = TrainConfig.validation_attack_images,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many epochs without a better score; by default never.",
            rich_help_panel=_VALIDATION,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of weights, split, order and attacks.", rich_help_panel=_MACHINE)
    ] = TrainConfig.seed,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1, ...", rich_help_panel=_MACHINE)
    ] = TrainConfig.device,
    precision: Annotated[
        str,
        typer.Option(help="float32, or bfloat16 (autocast) for speed.", rich_help_panel=_MACHINE),
    ] = TrainConfig.precision,
    channels_last: Annotated[
        bool,
        typer.Option("--channels-last", help="Memory format that is often faster.", rich_help_panel=_MACHINE),
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Deterministic algorithms only.", rich_help_panel=_MACHINE),
    ] = False,
) -> None:
    """Train one net into a run folder, which holds its weights, its log and every choice.

    Example: skreg train --data fashion-mnist --variant VR --epochs 10 --output runs/vr
    """
    try:
        config = TrainConfig(
            data=data,
            variant=variant,
            data_root=data_root,
            net=net,
            limit=limit,
            validation_fraction=validation_fraction,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            optimizer_options=parse_assignments("--optimizer-option", optimizer_option),
            learning_rate=learning_rate,
            schedule=schedule,
            schedule_options=parse_assignments("--schedule-option", schedule_option),
            eps=eps,
            attack_steps=attack_steps,
            step_size=step_size,
            gamma=gamma,
            strength=strength,
            normalize=None if normalize == "none" else normalize,
            exponentiate=None if exponentiate == "none" else exponentiate,
            reduction=reduction,
            connectivity=connectivity,
            max_exponent=max_exponent,
            include=tuple(include) if include else None,
            exclude=tuple(exclude) if exclude else None,
            seed=seed,
            device=device,
            precision=precision,
            channels_last=channels_last,
            patience=patience,
            validation_attack_steps=validation_attack_steps,
            validation_attack_images=validation_attack_images,
            deterministic=deterministic,
        )
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    run = training.train(config, output, resume=resume, progress=ConsoleProgress(Console(stderr=True)))
    best = max(run.log, key=lambda record: record["score"])
    if as_json:
        print_json({"run": str(run.path), "epochs": len(run.log), "best": best, "last": run.log[-1]})
        return
    table = Table("layer", "roughness D/E", "norm")
    for layer in best["layers"]:
        table.add_row(layer["name"], f"{layer['roughness']:.3f}", f"{layer['norm']:.2f}")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"{run.path}: best epoch {best['epoch']} of {len(run.log)}, validation accuracy "
        f"{best['validation_accuracy']:.3f}, under PGD {best['validation_pgd_accuracy']:.3f}"
    )
    console.print(table)
    console.print(f"next: skreg evaluate {run.path}")


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


@command
def bench(
    sections: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SECTION...", help=f"Of {', '.join(SECTIONS)}, all by default; or step or training alone."
        ),
    ] = None,
    weights: Annotated[str, typer.Option(help="Nets whose conv weights are measured, separated by commas.")] = ",".join(
        WEIGHT_SETS
    ),
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
    """Measure the penalty beside PyTorch alone and beside a copy of the weights, or whole training steps.

    Example: skreg bench penalty --weights resnet18_cifar --threads 2 --no-compile

    `skreg bench step` compares training steps with and without the regularizer, `skreg bench training` a step of
    TRADES and of adversarial training with plain loops.
    """
    names = [name.strip() for name in weights.split(",") if name.strip()]
    for alone in ("step", "training"):
        if alone in (sections or ()) and (sections != [alone] or plot is not None or device != "cpu"):
            raise typer.BadParameter(f"{alone}: expected no other section, no --plot, and --device cpu")
    if sections == ["step"]:
        _bench_step(names, threads, rounds, seconds, csv, seed, as_json)
        return
    if sections == ["training"]:
        _bench_training(names, threads, rounds, seconds, compiled, csv, seed, as_json)
        return
    cases = build_cases(
        sections or (),
        names,
        threads=torch.get_num_threads() if threads is None else threads,
        compiled=compiled,
    )
    if plot is not None and not any(case.section == "size" for case in cases):
        raise typer.BadParameter("--plot: expected the section size among those to measure")
    for path in (csv, plot):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    with Console(stderr=True).status("") as status:
        measurements = run_cases(
            cases, rounds=rounds, seconds=seconds, device=device, seed=seed, progress=status.update
        )
    machine = describe_machine(device)
    if csv is not None:
        write_csv(csv, measurements, machine)
    if plot is not None:
        save_figure(plot_size(measurements, machine), plot)
    if as_json:
        print_json({"machine": machine, "measurements": [asdict(each) for each in measurements]})
    else:
        print_measurements(measurements, machine, Console())


def _bench_step(
    names: list[str], threads: int | None, rounds: int, seconds: float, csv: Path | None, seed: int, as_json: bool
) -> None:
    if csv is not None:
        csv.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    with Console(stderr=True).status("") as status:
        measurements = run_steps(
            list(STEP_NETS) if names == list(WEIGHT_SETS) else names,
            threads=torch.get_num_threads() if threads is None else threads,
            rounds=rounds,
            seconds=seconds,
            seed=seed,
            progress=status.update,
        )
    machine = describe_machine()
    if csv is not None:
        write_csv(csv, measurements, machine)
    if as_json:
        print_json({"machine": machine, "measurements": [asdict(each) for each in measurements]})
    else:
        print_steps(measurements, machine, Console())


def _bench_training(
    names: list[str],
    threads: int | None,
    rounds: int,
    seconds: float,
    compiled: bool,
    csv: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    nets = list(TRAINING_NETS) if names == list(WEIGHT_SETS) else names
    contenders = [name for name, (_, _, compile_) in TRAINING_CONTENDERS.items() if compiled or not compile_]
    measurements = []
    with Console(stderr=True).status("") as status:
        for net in nets:
            measurements += run_training(
                [net],
                threads=torch.get_num_threads() if threads is None else threads,
                # A step of ResNet-18 on 128 images takes a minute on two cores.
                batch_size=128 if net == "two_conv" else 2,
                contenders=contenders,
                rounds=rounds,
                seconds=seconds,
                seed=seed,
                progress=status.update,
            )
    machine = describe_machine()
    if csv is not None:
        write_csv(csv, measurements, machine)
    if as_json:
        print_json({"machine": machine, "measurements": [asdict(each) for each in measurements]})
    else:
        print_training(measurements, machine, Console())


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
