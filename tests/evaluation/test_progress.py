from __future__ import annotations

import io

import pytest
from rich.console import Console

from skreg.evaluation import progress
from skreg.evaluation.progress import ConsoleProgress, Plan, duration

# The shares of these in the sum of their costs do not add up without rounding.
ATTACKS = ["fgsm", "pgd", "salt_pepper"]


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test may turn forward."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def written():
    return io.StringIO()


def lines(written: io.StringIO) -> list[str]:
    return written.getvalue().splitlines()


def test_what_was_only_looked_up_gives_no_estimate(clock, written):
    with ConsoleProgress(Console(file=written)) as shown:
        plan = Plan("VR", 30, ATTACKS, shown)
        for attack in ATTACKS:
            clock[0] += 1
            plan.begin(attack)(30)
    assert len(lines(written)) == len(ATTACKS)
    assert not any("left" in line for line in lines(written))


def test_the_estimate_goes_by_the_new_images_alone(clock, written, monkeypatch):
    monkeypatch.setattr(progress, "COSTS", {"fgsm": 1.0, "pgd": 2.0, "adef": 1.0})
    with ConsoleProgress(Console(file=written)) as shown:
        plan = Plan("VR", 30, ["fgsm", "pgd", "adef"], shown)
        plan.begin("fgsm")(30)  # kept: a quarter of the costs in no time
        told = plan.begin("pgd")
        told(0)
        clock[0] += 50.0  # half of the costs in 50 seconds, so that a quarter is 25 seconds away
        told(30)
        plan.begin("adef")
    assert lines(written)[-1] == " 75%  VR: adef, 0 of 30 images, about 25 s left"


@pytest.mark.parametrize(("seconds", "words"), [(40, "40 s"), (720, "12 min"), (12600, "3.5 h")])
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
