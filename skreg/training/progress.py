"""What a running training tells: nothing, or a live display and lines on a console."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from skreg._extras import require
from skreg.regularizer import SmoothKernelRegularizer

if TYPE_CHECKING:
    from rich.console import Console

_REFRESH_SECONDS = 0.5  # of the display; drawing takes about a millisecond
_LINE_SECONDS = 60.0  # between lines in an epoch, where there is no display


class Meter(Protocol):
    """The sums of the epoch so far. Reading `losses` waits for the device, so read it seldom."""

    @property
    def losses(self) -> tuple[float, float]:
        """Mean data loss, mean penalty."""

    @property
    def images_per_second(self) -> float: ...


class Progress:
    """Listens to a training, and says nothing. Subclasses override what they need.

    Where several processes train, that of rank 0 is told.
    """

    def note(self, text: str) -> None:
        """Called with a line that is worth reading."""

    def begin(self, *, epoch: int, epochs: int, steps: int) -> None:
        """Called once, with the number of epochs finished before, of all epochs, and of steps an epoch."""

    def step(self, epoch: int, step: int, meter: Meter) -> None:
        """Called after each optimizer step; both numbers count from 1."""

    def weights(self, epoch: int, regularizer: SmoothKernelRegularizer) -> None:
        """Called before `epoch`, with the regularizer of the net; not where the net is sharded over processes."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Called after each epoch, when its files are written, with its record of the log."""

    def end(self) -> None:
        """Called once, whatever way the training ends."""


class AllProgress(Progress):
    """Tells several listeners."""

    def __init__(self, *listeners: Progress) -> None:
        self._listeners = listeners

    def note(self, text: str) -> None:
        for each in self._listeners:
            each.note(text)

    def begin(self, *, epoch: int, epochs: int, steps: int) -> None:
        for each in self._listeners:
            each.begin(epoch=epoch, epochs=epochs, steps=steps)

    def step(self, epoch: int, step: int, meter: Meter) -> None:
        for each in self._listeners:
            each.step(epoch, step, meter)

    def weights(self, epoch: int, regularizer: SmoothKernelRegularizer) -> None:
        for each in self._listeners:
            each.weights(epoch, regularizer)

    def epoch(self, record: dict[str, Any]) -> None:
        for each in self._listeners:
            each.epoch(record)

    def end(self) -> None:
        for each in self._listeners:
            each.end()


class ConsoleProgress(Progress):
    """A line after each epoch; before that a live display on a terminal, and elsewhere a line a minute.

    The display is drawn twice a second, by the training itself: there is no thread, and nothing that moves the
    cursor is written to what is no terminal.
    """

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
        )
        self._live = require("rich.live", "lab").Live(console=console, auto_refresh=False, transient=True)
        self._last = require("rich.text", "lab").Text()
        self._group = require("rich.console", "lab").Group
        self._shows = console.is_terminal and not console.is_dumb_terminal
        self._epochs = self._steps = self._before = 0
        self._began = self._shown = 0.0

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, *, epoch: int, epochs: int, steps: int) -> None:
        self._epochs, self._steps, self._before = epochs, steps, epoch * steps
        self._began = self._shown = time.monotonic()
        if epoch:
            self.note(f"resumed after epoch {epoch} of {epochs}")
        if self._shows:
            self._task = self._bar.add_task("", total=epochs * steps, completed=epoch * steps, state="")
            self._live.start()
            self._shown = 0.0

    def step(self, epoch: int, step: int, meter: Meter) -> None:
        now = time.monotonic()
        if now - self._shown < (_REFRESH_SECONDS if self._shows else _LINE_SECONDS):
            return
        self._shown = now
        done = (epoch - 1) * self._steps + step
        data_loss, penalty = meter.losses
        state = f"loss {data_loss:.4f}{f' + penalty {penalty:.4g}' if penalty else ''}  "
        state += f"{meter.images_per_second:.0f} images/s"
        if not self._shows:
            left = (now - self._began) / (done - self._before) * (self._epochs * self._steps - done)
            self.note(f"epoch {epoch}/{self._epochs}  step {step}/{self._steps}  {state}  {_minutes(left)} left")
            return
        self._bar.update(self._task, description=f"epoch {epoch}/{self._epochs}", completed=done, state=state)
        self._live.update(self._group(self._bar, self._last), refresh=True)

    def epoch(self, record: dict[str, Any]) -> None:
        self.note(describe_epoch(record, self._epochs))
        layers = "  ".join(f"{layer['name']} {layer['roughness']:.3f}" for layer in record["layers"])
        self._last.plain = (
            f"validation {record['validation_accuracy']:.3f}  under PGD {record['validation_pgd_accuracy']:.3f}  "
            f"roughness {layers}"
        )
        self._last.truncate(self._console.width, overflow="ellipsis")

    def end(self) -> None:
        self._live.stop()


def _minutes(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def describe_epoch(record: dict[str, Any], epochs: int) -> str:
    """One line of text for a record of the log."""
    penalty = f" (penalty {record['penalty']:.4g})" if record["penalty"] else ""
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {record['loss']:.4f}{penalty}  "
        f"train {record['train_accuracy']:.3f}  validation {record['validation_accuracy']:.3f}  "
        f"under PGD {record['validation_pgd_accuracy']:.3f}  {record['images_per_second']:.0f} images/s  "
        f"{record['seconds']:.1f} s{'  best' if record['best'] else ''}"
    )
