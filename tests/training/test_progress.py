from __future__ import annotations

import io
import time

from rich.console import Console

from skreg.training import ConsoleProgress

RECORD = {
    "epoch": 2,
    "loss": 1.5,
    "penalty": 0.25,
    "train_accuracy": 0.5,
    "validation_accuracy": 0.75,
    "validation_pgd_accuracy": 0.125,
    "images_per_second": 1234.5,
    "seconds": 3.0,
    "best": True,
    "layers": [{"name": "conv1.weight", "roughness": 1.25, "norm": 2.0}],
}


class Meter:
    images_per_second = 100.0

    def __init__(self):
        self.reads = 0

    @property
    def losses(self):
        self.reads += 1
        return 0.5, 0.25


def follow(*, terminal, steps):
    stream, meter = io.StringIO(), Meter()
    console = Console(file=stream, force_terminal=terminal, width=120, color_system=None)
    progress = ConsoleProgress(console)
    progress.begin(epoch=1, epochs=10, steps=steps)
    for step in range(1, steps + 1):
        progress.step(2, step, meter)
    progress.epoch(RECORD)
    progress.end()
    return stream.getvalue(), meter.reads


def test_a_file_gets_plain_lines_and_no_loss_is_read_from_the_device():
    text, reads = follow(terminal=False, steps=50)
    assert text.splitlines() == [
        "resumed after epoch 1 of 10",
        "epoch  2/10  loss 1.5000 (penalty 0.25)  train 0.500  validation 0.750  under PGD 0.125  "
        "1234 images/s  3.0 s  best",
    ]
    assert reads == 0


def test_a_long_epoch_gets_lines_in_a_file(monkeypatch):
    clock = iter([0.0] + [20.0 * step for step in range(1, 8)])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    text, reads = follow(terminal=False, steps=7)
    assert text.splitlines()[1:3] == [
        "epoch 2/10  step 3/7  loss 0.5000 + penalty 0.25  100 images/s  20 min left",
        "epoch 2/10  step 6/7  loss 0.5000 + penalty 0.25  100 images/s  19 min left",
    ]
    assert reads == 2
    assert "\x1b" not in text


def test_a_terminal_keeps_the_last_epoch_in_sight():
    stream = io.StringIO()
    progress = ConsoleProgress(Console(file=stream, force_terminal=True, width=120, color_system=None))
    progress.begin(epoch=1, epochs=3, steps=1)
    progress.epoch(RECORD)
    progress.step(3, 1, Meter())
    progress.end()
    assert "validation 0.750  under PGD 0.125  roughness conv1.weight 1.250" in stream.getvalue()


def test_a_terminal_gets_a_bar_that_seldom_reads_the_loss():
    text, reads = follow(terminal=True, steps=50)
    assert "epoch 2/10" in text
    assert "loss 0.5000 + penalty 0.25  100 images/s" in text
    assert 1 <= reads < 50
