"""What a running training tells: nothing, or bars and lines on a console."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from skreg._extras import require

if TYPE_CHECKING:
    from rich.console import Console

_REFRESH_SECONDS = 0.2


class Meter(Protocol):
    """The sums of the epoch so far. Reading `loss` waits for the device, so read it seldom."""

    @property
    def loss(self) -> float: ...

    @property
    def images_per_second(self) -> float: ...


class Progress:
    """Listens to a training, and says nothing. Subclasses override what they need."""

    def begin(self, *, epoch: int, epochs: int, steps: int) -> None:
        """Called once, with the number of epochs finished before, of all epochs, and of steps an epoch."""

    def step(self, epoch: int, step: int, meter: Meter) -> None:
        """Called after each optimizer step; both numbers count from 1."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Called after each epoch, when its files are written, with its record of the log."""

    def end(self) -> None:
        """Called once, whatever way the training ends."""


class ConsoleProgress(Progress):
    """A bar while it runs (on a terminal only) and a line after each epoch."""

    def __init__(self, console: Console) -> None:
        progress = require("rich.progress", "lab")
        self._console = console
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[state]}"),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._epochs = 0
        self._steps = 0
        self._shown = 0.0

    def begin(self, *, epoch: int, epochs: int, steps: int) -> None:
        self._epochs, self._steps = epochs, steps
        if epoch:
            self._console.print(f"resumed after epoch {epoch} of {epochs}")
        self._task = self._bar.add_task("", total=epochs * steps, completed=epoch * steps, state="")
        self._bar.start()

    def step(self, epoch: int, step: int, meter: Meter) -> None:
        now = time.monotonic()
        if self._bar.disable or now - self._shown < _REFRESH_SECONDS:
            return
        self._shown = now
        self._bar.update(
            self._task,
            description=f"epoch {epoch}/{self._epochs}",
            completed=(epoch - 1) * self._steps + step,
            state=f"loss {meter.loss:.4f}  {meter.images_per_second:.0f} images/s",
        )

    def epoch(self, record: dict[str, Any]) -> None:
        self._console.print(describe_epoch(record, self._epochs), highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        self._bar.stop()


def describe_epoch(record: dict[str, Any], epochs: int) -> str:
    """One line of text for a record of the log."""
    penalty = f" (penalty {record['penalty']:.4g})" if record["penalty"] else ""
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {record['loss']:.4f}{penalty}  "
        f"train {record['train_accuracy']:.3f}  validation {record['validation_accuracy']:.3f}  "
        f"under PGD {record['validation_pgd_accuracy']:.3f}  {record['images_per_second']:.0f} images/s  "
        f"{record['seconds']:.1f} s{'  best' if record['best'] else ''}"
    )
