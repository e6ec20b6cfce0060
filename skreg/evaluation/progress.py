"""What a running evaluation tells: how far it is, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skreg._extras import require

if TYPE_CHECKING:
    from rich.console import Console

# CPU seconds for 100 images of the two-conv net, four shapes, to weigh the attacks against each other; AutoAttack's
# from a net trained by TRADES, which keeps it busy for long (Fashion-MNIST: five times as long as PGD).
COSTS = {
    "fgsm": 30.0,
    "pgd": 110.0,
    "deepfool_l2": 15.0,
    "deepfool_linf": 10.0,
    "cw": 450.0,
    "adef": 7.0,
    "salt_pepper": 70.0,
    "pgd_ce": 10.0,
    "pgd_margin": 10.0,
    "random_search": 20.0,
    "autoattack": 550.0,
}
LINE_SECONDS = 60.0  # between two lines about the same attack, where there is no terminal


@dataclass(frozen=True)
class Step:
    """One attack on one model, at a moment of its run.

    Attributes:
        model: its name.
        attack: its name, with its eps where it has one.
        done: images finished, those of an earlier evaluation included.
        images: of all.
        kept: images that were finished by an earlier evaluation.
        share: of the whole evaluation that is done, by the attacks' usual costs; in [0, 1].
    """

    model: str
    attack: str
    done: int
    images: int
    kept: int
    share: float

    def __str__(self) -> str:
        return f"{self.model}: {self.attack}, {self.done} of {self.images} images"

    def __rich__(self) -> str:
        return str(self)


class Plan:
    """The attacks on one model in their order, each weighed by its usual cost."""

    def __init__(
        self, model: str, images: int, attacks: Sequence[str], progress: Callable[[Step], None] | None
    ) -> None:
        self._model = model
        self._images = images
        self._total = sum(COSTS[attack] for attack in attacks)
        self._before = 0.0
        self._progress = progress

    def begin(self, attack: str, suffix: str = "") -> Callable[[int], None]:
        """Tell that `attack` begins, and return what tells how many images are done; its first call says how many
        an earlier evaluation had finished."""
        before, self._before = self._before, self._before + COSTS[attack]
        kept: list[int] = []

        def told(done: int) -> None:
            if not kept:
                kept.append(done)
            share = min(1.0, (before + COSTS[attack] * done / self._images) / self._total)
            if self._progress is not None:
                self._progress(Step(self._model, attack + suffix, done, self._images, kept[0], share))

        if self._progress is not None:
            self._progress(Step(self._model, attack + suffix, 0, self._images, 0, before / self._total))
        return told


class ConsoleProgress:
    """A bar with an estimate of the time left; where the console is no terminal, a line as each attack begins."""

    def __init__(self, console: Console) -> None:
        progress = require("rich.progress", "lab")
        self._console = console
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TextColumn("{task.fields[left]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1.0, left="")
        self._begun = self._told = time.monotonic()
        self._shown: tuple[str, str] | None = None
        self._share = self._worked = 0.0

    def __enter__(self) -> ConsoleProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, step: Step) -> None:
        """Show `step`."""
        if step.done > step.kept:  # what was only looked up is no sign of how fast the work goes
            self._worked += max(0.0, step.share - self._share)
        self._share = step.share
        left = self._left()
        self._bar.update(self._task, description=str(step), completed=step.share, left=left)
        now = time.monotonic()
        fresh = (step.model, step.attack) != self._shown
        if self._bar.disable and (fresh or now - self._told > LINE_SECONDS):
            self._shown, self._told = (step.model, step.attack), now
            line = f"{100 * step.share:3.0f}%  {step}{', ' + left if left else ''}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _left(self) -> str:
        if not self._worked:
            return ""
        return f"about {duration((time.monotonic() - self._begun) * (1 - self._share) / self._worked)} left"


def duration(seconds: float) -> str:
    """Seconds in words that a person would use: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
