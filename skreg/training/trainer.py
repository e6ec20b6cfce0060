"""The training loop, in plain PyTorch."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from skreg.attacks import PGD, BatchPart
from skreg.data import Part, load, parts, split_validation
from skreg.losses import LOSSES
from skreg.training.checkpoint import (
    LAST_FILE,
    read_last_good,
    remove_temporary_files,
    write_best,
    write_checkpoint,
)
from skreg.training.config import TrainConfig
from skreg.training.diagnosis import find_bad_layer
from skreg.training.distributed import Group, join_group
from skreg.training.interrupt import interrupt_between_steps
from skreg.training.meter import EpochMeter
from skreg.training.progress import Progress
from skreg.training.run import (
    Run,
    check_free,
    create_run,
    cut_log,
    has_checkpoint,
    is_unused,
    reopen_run,
    write_config,
    write_log,
)
from skreg.training.state import State

# Reading a loss makes a GPU wait, so that non-finite ones are looked for once in so many steps there.
_STEPS_BETWEEN_CHECKS = 50

_Examples = tuple[Tensor, Tensor]  # images uint8 N x C x H x W and labels int64 N


def train(
    config: TrainConfig,
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Train one net and keep everything about it in a run folder.

    The folder holds config.json (choices, versions, device, command, commit), log.jsonl (a record an epoch),
    best.safetensors (the weights with the best validation score), last.pt (all that is needed to go on) and
    previous.pt (the last.pt before it, read where that is damaged). The score is the validation accuracy for V
    and the validation accuracy under PGD for T, A and L; of equal
    epochs the first counts. A run can be resumed however it ended: it goes on after its last finished epoch,
    and on the CPU, with as many threads, it ends bit for bit as if it had never stopped.

    A record holds `epoch`, from 1; `loss` = `data_loss` + `penalty`, means over the training images of the
    epoch; `train_accuracy` on the images whose logits the loss returns (adversarial ones for A, else clean);
    `validation_loss` and `validation_accuracy` on clean images; `validation_pgd_accuracy` on
    `validation_attack_images` of them, evenly spread; `score` and `best`, whether it is the best so far;
    `layers`, for each conv weight its `name`, `roughness` (D / E, paper sec. 3) and `norm` (l2);
    `learning_rate` of the first step; `images_per_second` in training; `seconds`, validation included; `processes`.

    Started by torchrun, in each of its processes, it trains one net together: each takes its part of every batch,
    and rank 0 alone reads and writes the folder. The result is that of one process up to the order of sums
    (docs/scaling.md).

    Args:
        config: what to train.
        output: the run folder, made when it is missing; must hold no run, or the one to resume.
        resume: go on with the run in `output`. Only `epochs` may have grown, and `data_root`, `loader`, `workers`,
            `fsdp` and the number of processes may differ. A finished run is returned at once.
        progress: what to tell on the way; nothing by default.

    Raises:
        RunError: the run folder cannot be used or written; says why and what to do.
        FloatingPointError: the loss became infinite or NaN; names epoch, step and layer. The files stay.
        KeyboardInterrupt: passed on, with a message that says how to go on; `Terminated` for SIGTERM.
        ValueError: the configuration does not fit the net, the data or the number of processes.
        DatasetNotFoundError, DatasetFormatError: see `skreg.data.load`.
        StoppedByMain: on ranks above 0, when rank 0 raises one of these about the folder.
    """
    config = config.resolved()
    with join_group(config.device) as group:
        if group.size > config.batch_size:
            raise ValueError(f"batch_size: expected an image for each of {group.size} processes or more")
        return _train(config, Path(output), resume, progress if progress and group.is_main else Progress(), group)


def _train(config: TrainConfig, folder: Path, resume: bool, progress: Progress, group: Group) -> Run:
    run, checkpoint = group.on_main(partial(_open_run, config, folder, resume))
    if checkpoint is not None and is_finished(config, checkpoint["epoch"], checkpoint["best_epoch"]):
        return run
    train_set, validation_set = _load_examples(config)

    # Weights and dropout draw from the global generators: the caller gets these back as they were.
    device = torch.device(config.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), _determinism(config.deterministic):
        torch.manual_seed(config.seed)
        state = State.start(config, math.ceil(len(train_set[1]) / config.batch_size), group)
        if checkpoint is not None:
            state.load(checkpoint, folder / LAST_FILE)
            group.on_main(partial(write_config, run))
        else:
            run = group.on_main(partial(create_run, config, folder))
            # Before the first epoch, so that a folder that cannot be written to is found out now.
            group.on_main(partial(write_checkpoint, run.path, state.as_dict()))
        with interrupt_between_steps(group.largest, patient=group.size > 1) as check_interrupt:
            _run_epochs(run, state, train_set, validation_set, progress, check_interrupt)
    return run


def _open_run(config: TrainConfig, folder: Path, resume: bool) -> tuple[Run, dict[str, Any] | None]:
    """The run in `folder`, and the checkpoint to go on from; None to begin."""
    if not resume or is_unused(folder):
        check_free(folder)
        return Run(folder, config, {}), None
    run = reopen_run(config, folder)
    remove_temporary_files(folder)
    # A run that was killed before its first checkpoint has nothing to lose, and begins again.
    if not run.log and not has_checkpoint(folder):
        return run, None
    checkpoint = read_last_good(folder)
    cut_log(run, checkpoint["epoch"])
    return run, checkpoint


def _run_epochs(
    run: Run,
    state: State,
    train_set: _Examples,
    validation_set: _Examples,
    progress: Progress,
    check_interrupt: Callable[[], None],
) -> None:
    config = run.config
    if state.group.size > 1:
        progress.note(_describe_processes(config, state))
    progress.begin(epoch=state.epoch, epochs=config.epochs, steps=state.steps_per_epoch)
    try:
        while not is_finished(config, state.epoch, state.best_epoch):
            start = time.perf_counter()
            if not state.sharded:
                progress.weights(state.epoch + 1, state.regularizer)
            learning_rate = float(state.optimizer.param_groups[0]["lr"])
            trained = _train_epoch(config, state, train_set, progress, check_interrupt)
            validated = _validate(config, state, validation_set)
            check_interrupt()
            score = validated["validation_accuracy" if config.loss == "V" else "validation_pgd_accuracy"]
            state.epoch += 1
            best = score > state.best_score
            if best:
                state.best_score, state.best_epoch = score, state.epoch
            layers = [
                {"name": layer.name, "roughness": layer.roughness, "norm": math.sqrt(layer.energy)}
                for layer in state.regularizer.statistics()
            ]
            record = {
                "epoch": state.epoch,
                **trained,
                **validated,
                "score": score,
                "best": best,
                "layers": layers,
                "learning_rate": learning_rate,
                "seconds": time.perf_counter() - start,
                "processes": state.group.size,
            }
            run.log.append(record)
            state.group.on_main(partial(_write_epoch, run, state.as_dict()))
            progress.epoch(record)
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(
            f"{run.path} holds {state.epoch} of {config.epochs} epochs; go on with --resume (resume=True)"
        ) from None
    finally:
        progress.end()


def _write_epoch(run: Run, state: dict[str, Any]) -> None:
    record = run.log[-1]
    if record["best"]:
        write_best(run.path, state["model"], record["epoch"], record["score"])
    write_log(run)
    # Last, because a resumed run believes this file: what is newer in the others is made again.
    write_checkpoint(run.path, state)


def _train_epoch(
    config: TrainConfig,
    state: State,
    train_set: _Examples,
    progress: Progress,
    check_interrupt: Callable[[], None],
) -> dict[str, float]:
    network, device, group = state.network.train(), torch.device(config.device), state.group
    loss_function = LOSSES[config.loss]
    attack = PGD(eps=_eps(config), steps=config.attack_steps, step_size=config.step_size)
    no_penalty = torch.zeros((), device=device)
    diagnose: Callable[[], str] = str
    epoch, meter = state.epoch + 1, EpochMeter(state.steps_per_epoch, device)

    order = torch.randperm(len(train_set[1]), generator=state.order)
    for step, part in enumerate(_parts(config, train_set, order, group), start=1):
        images, labels = part.images.contiguous(memory_format=config.memory_format), part.labels
        noise = _noise(state.noise, part)
        diagnose = partial(find_bad_layer, state.model, images)
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                output = loss_function(network, images, labels, attack=attack, gamma=config.gamma, generator=noise)
            penalty = state.regularizer() if config.signed_strength else no_penalty
        except FloatingPointError as error:
            reason = diagnose()
            raise FloatingPointError(f"epoch {epoch}, step {step}: {reason and reason + '; '}{error}") from error
        meter.add(output, penalty, labels, count=part.counted, batch=part.batch)
        if device.type == "cpu" or step % _STEPS_BETWEEN_CHECKS == 0:
            meter.check_finite(epoch, diagnose)

        state.optimizer.zero_grad()
        # Gradients are averaged over the processes, and losses are means: a part counts by its images.
        weight = group.size * part.counted / part.batch
        torch.autograd.backward(weight * output.loss + penalty)
        state.optimizer.step()
        state.schedule.step()
        progress.step(epoch, step, meter)
        check_interrupt()

    meter.check_finite(epoch, diagnose)
    group.average_statistics(state.model)
    return meter.record(group)


def _validate(config: TrainConfig, state: State, validation_set: _Examples) -> dict[str, float]:
    """Loss and accuracy on clean images, accuracy under PGD on some; always in full precision."""
    model, group = state.model.eval(), state.group
    every = torch.arange(len(validation_set[1]))
    count = min(config.validation_attack_images, len(every))
    # Evenly spread, because some data sets are sorted by class.
    chosen = torch.arange(count) * len(every) // count
    attack = PGD(eps=_eps(config), steps=config.validation_attack_steps)
    # The same random starts after every epoch: scores differ by the net alone.
    noise = torch.Generator(config.device).manual_seed(config.seed)

    sums = torch.zeros(3, device=config.device)  # loss, correct, correct under PGD
    with torch.no_grad():
        for part in _parts(config, validation_set, every, group):
            logits = model(part.images.contiguous(memory_format=config.memory_format)).float()[: part.counted]
            target = part.labels[: part.counted]
            sums[0] += F.cross_entropy(logits, target, reduction="sum")
            sums[1] += (logits.argmax(1) == target).sum()
        for part in _parts(config, validation_set, chosen, group):
            images = part.images.contiguous(memory_format=config.memory_format)
            adversarial = attack(model, images, part.labels, generator=_noise(noise, part))
            sums[2] += (model(adversarial).argmax(1) == part.labels)[: part.counted].sum()
    loss, correct, correct_under_pgd = group.sum(sums).tolist()
    return {
        "validation_loss": loss / len(every),
        "validation_accuracy": correct / len(every),
        "validation_pgd_accuracy": correct_under_pgd / count,
    }


def is_finished(config: TrainConfig, epoch: int, best_epoch: int) -> bool:
    """Whether a run of `config` that has done `epoch` epochs, the best of them `best_epoch`, is over."""
    out_of_patience = config.patience is not None and epoch - best_epoch >= config.patience
    return epoch >= config.epochs or out_of_patience


def _describe_processes(config: TrainConfig, state: State) -> str:
    size, batch = state.group.size, config.batch_size
    each = f"{batch // size}" if batch % size == 0 else f"{batch // size} or {batch // size + 1}"
    return (
        f"{size} processes ({'one net, sharded' if state.sharded else 'copies of the net'}): {batch} images a step, "
        f"{each} a process; learning rate {config.learning_rate:g}, not scaled"
    )


def _load_examples(config: TrainConfig) -> tuple[_Examples, _Examples]:
    images, labels = load(config.data, "train", config.data_root, config.limit)
    kept, held_out = split_validation(images, labels, config.validation_fraction, config.seed)
    where = config.device if config.loader == "device" else "cpu"
    return (kept[0].to(where), kept[1].to(where)), (held_out[0].to(where), held_out[1].to(where))


def _parts(config: TrainConfig, examples: _Examples, order: Tensor, group: Group) -> Iterator[Part]:
    workers = config.workers if config.loader == "workers" else 0
    size, device = config.batch_size, config.device
    return parts(*examples, order, size, rank=group.rank, ranks=group.size, device=device, workers=workers)


def _noise(generator: torch.Generator, part: Part) -> torch.Generator | BatchPart:
    whole = len(part.images) == part.batch
    return generator if whole else BatchPart(generator, part.start, part.batch)


def _eps(config: TrainConfig) -> float:
    assert config.eps is not None, "the configuration is resolved"
    return config.eps


@contextlib.contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        # Without it cuBLAS refuses to be deterministic; it is read when cuBLAS starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
