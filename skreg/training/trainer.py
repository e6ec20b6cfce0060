"""The training loop, in plain PyTorch."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skreg.attacks import PGD
from skreg.data import batches, load, split_validation
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

_Examples = tuple[Tensor, Tensor]  # images uint8 N x C x H x W and labels int64 N, on the device


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
    `learning_rate` of the first step; `images_per_second` in training; `seconds`, validation included.

    Args:
        config: what to train.
        output: the run folder, made when it is missing; must hold no run, or the one to resume.
        resume: go on with the run in `output`. Only `epochs` may have grown and `data_root` may differ. A
            finished run is returned at once.
        progress: what to tell on the way; nothing by default.

    Raises:
        RunError: the run folder cannot be used or written; says why and what to do.
        FloatingPointError: the loss became infinite or NaN; names epoch, step and layer. The files stay.
        KeyboardInterrupt: passed on, with a message that says how to go on; `Terminated` for SIGTERM.
        ValueError: the configuration does not fit the net or the data.
        DatasetNotFoundError, DatasetFormatError: see `skreg.data.load`.
    """
    config, folder = config.resolved(), Path(output)
    checkpoint = None
    if resume and not is_unused(folder):
        run = reopen_run(config, folder)
        remove_temporary_files(folder)
        # A run that was killed before its first checkpoint has nothing to lose, and begins again.
        if run.log or has_checkpoint(folder):
            checkpoint = read_last_good(folder)
            cut_log(run, checkpoint["epoch"])
            if is_finished(config, checkpoint["epoch"], checkpoint["best_epoch"]):
                return run
    else:
        check_free(folder)
    train_set, validation_set = _load_examples(config)

    # Weights and dropout draw from the global generators: the caller gets these back as they were.
    device = torch.device(config.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), _determinism(config.deterministic):
        torch.manual_seed(config.seed)
        state = State.start(config, steps_per_epoch=math.ceil(len(train_set[1]) / config.batch_size))
        if checkpoint is not None:
            state.load(checkpoint, folder / LAST_FILE)
            write_config(run)
        else:
            run = create_run(config, folder)
            # Before the first epoch, so that a folder that cannot be written to is found out now.
            write_checkpoint(run.path, state.as_dict())
        with interrupt_between_steps() as check_interrupt:
            _run_epochs(run, state, train_set, validation_set, progress or Progress(), check_interrupt)
    return run


def _run_epochs(
    run: Run,
    state: State,
    train_set: _Examples,
    validation_set: _Examples,
    progress: Progress,
    check_interrupt: Callable[[], None],
) -> None:
    config = run.config
    progress.begin(epoch=state.epoch, epochs=config.epochs, steps=state.steps_per_epoch)
    try:
        while not is_finished(config, state.epoch, state.best_epoch):
            start = time.perf_counter()
            learning_rate = float(state.optimizer.param_groups[0]["lr"])
            trained = _train_epoch(config, state, train_set, progress, check_interrupt)
            validated = _validate(config, state.model, validation_set)
            check_interrupt()
            score = validated["validation_accuracy" if config.loss == "V" else "validation_pgd_accuracy"]
            state.epoch += 1
            best = score > state.best_score
            if best:
                state.best_score, state.best_epoch = score, state.epoch
                write_best(run.path, state.model.state_dict(), state.epoch, score)
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
            }
            run.log.append(record)
            write_log(run)
            # Last, because a resumed run believes this file: what is newer in the others is made again.
            write_checkpoint(run.path, state.as_dict())
            progress.epoch(record)
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(
            f"{run.path} holds {state.epoch} of {config.epochs} epochs; go on with --resume (resume=True)"
        ) from None
    finally:
        progress.end()


def _train_epoch(
    config: TrainConfig,
    state: State,
    train_set: _Examples,
    progress: Progress,
    check_interrupt: Callable[[], None],
) -> dict[str, float]:
    model, device = state.model.train(), torch.device(config.device)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    loss_function = LOSSES[config.loss]
    attack = PGD(eps=_eps(config), steps=config.attack_steps, step_size=config.step_size)
    no_penalty = torch.zeros((), device=device)
    diagnose: Callable[[], str] = str
    epoch, meter = state.epoch + 1, EpochMeter(state.steps_per_epoch, device)

    for step, (images, labels) in enumerate(
        batches(*train_set, config.batch_size, shuffle=True, generator=state.order), start=1
    ):
        images = images.contiguous(memory_format=memory_format)
        diagnose = partial(find_bad_layer, model, images)
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                output = loss_function(model, images, labels, attack=attack, gamma=config.gamma, generator=state.noise)
            penalty = state.regularizer() if config.signed_strength else no_penalty
        except FloatingPointError as error:
            reason = diagnose()
            raise FloatingPointError(f"epoch {epoch}, step {step}: {reason and reason + '; '}{error}") from error
        meter.add(output, penalty, labels)
        if device.type == "cpu" or step % _STEPS_BETWEEN_CHECKS == 0:
            meter.check_finite(epoch, diagnose)

        state.optimizer.zero_grad()
        torch.autograd.backward(output.loss + penalty)
        state.optimizer.step()
        state.schedule.step()
        progress.step(epoch, step, meter)
        check_interrupt()

    meter.check_finite(epoch, diagnose)
    return meter.record()


def _validate(config: TrainConfig, model: nn.Module, validation_set: _Examples) -> dict[str, float]:
    """Loss and accuracy on clean images, accuracy under PGD on some; always in full precision."""
    model.eval()
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    images, labels = validation_set
    count = min(config.validation_attack_images, len(labels))
    # Evenly spread, because some data sets are sorted by class.
    chosen = torch.arange(count, device=labels.device) * len(labels) // count
    attack = PGD(eps=_eps(config), steps=config.validation_attack_steps)
    # The same random starts after every epoch: scores differ by the net alone.
    noise = torch.Generator(config.device).manual_seed(config.seed)

    sums = torch.zeros(3, device=config.device)  # loss, correct, correct under PGD
    with torch.no_grad():
        for batch, target in batches(images, labels, config.batch_size, shuffle=False):
            logits = model(batch.contiguous(memory_format=memory_format)).float()
            sums[0] += F.cross_entropy(logits, target, reduction="sum")
            sums[1] += (logits.argmax(1) == target).sum()
        for batch, target in batches(images[chosen], labels[chosen], config.batch_size, shuffle=False):
            adversarial = attack(model, batch.contiguous(memory_format=memory_format), target, generator=noise)
            sums[2] += (model(adversarial).argmax(1) == target).sum()
    loss, correct, correct_under_pgd = sums.tolist()
    return {
        "validation_loss": loss / len(labels),
        "validation_accuracy": correct / len(labels),
        "validation_pgd_accuracy": correct_under_pgd / count,
    }


def is_finished(config: TrainConfig, epoch: int, best_epoch: int) -> bool:
    """Whether a run of `config` that has done `epoch` epochs, the best of them `best_epoch`, is over."""
    out_of_patience = config.patience is not None and epoch - best_epoch >= config.patience
    return epoch >= config.epochs or out_of_patience


def _load_examples(config: TrainConfig) -> tuple[_Examples, _Examples]:
    images, labels = load(config.data, "train", config.data_root, config.limit)
    kept, held_out = split_validation(images, labels, config.validation_fraction, config.seed)
    return (
        (kept[0].to(config.device), kept[1].to(config.device)),
        (held_out[0].to(config.device), held_out[1].to(config.device)),
    )


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
