"""`skreg train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from skreg import training
from skreg.cli.application import Json, command, parse_assignments, print_json
from skreg.data import DATASETS
from skreg.models import NETS
from skreg.training import SCHEDULES, AllProgress, ConsoleProgress, Progress, TrainConfig
from skreg.training.distributed import process_rank

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
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Call the net through torch.compile.", rich_help_panel=_MACHINE),
    ] = False,
    loader: Annotated[
        str,
        typer.Option(
            help="device keeps all images on the device; workers keeps them in memory and moves batches.",
            rich_help_panel=_MACHINE,
        ),
    ] = TrainConfig.loader,
    workers: Annotated[
        int, typer.Option(help="Processes that collect batches (loader workers).", rich_help_panel=_MACHINE)
    ] = TrainConfig.workers,
    fsdp: Annotated[
        bool,
        typer.Option(
            "--fsdp", help="Under torchrun: spread the net over the processes (FSDP2).", rich_help_panel=_MACHINE
        ),
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Write OUTPUT/tensorboard too.", rich_help_panel=_MACHINE),
    ] = False,
) -> None:
    """Train one net into a run folder, which holds its weights, its log and every choice.

    Example: skreg train --data fashion-mnist --variant VR --epochs 10 --output runs/vr

    Several processes: torchrun --nproc-per-node=2 -m skreg train ... (docs/scaling.md)
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
            compile=compiled,
            loader=loader,
            workers=workers,
            fsdp=fsdp,
        )
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    listeners: list[Progress] = [ConsoleProgress(Console(stderr=True))]
    if tensorboard:
        from skreg.integrations.tensorboard import TensorBoardProgress

        listeners.append(TensorBoardProgress(output / "tensorboard"))
    run = training.train(config, output, resume=resume, progress=AllProgress(*listeners))
    if process_rank():
        return
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
