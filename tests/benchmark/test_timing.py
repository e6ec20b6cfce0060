from __future__ import annotations

import gc
import random
import time

import pytest

from skreg.benchmark import timing
from skreg.benchmark.timing import median_interval, time_interleaved


@pytest.fixture
def log(monkeypatch):
    """The calls in order; each takes as long as a sample has to, so that none repeats within one."""
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-4)
    monkeypatch.setattr(timing, "EVICTING_BYTES", 1 << 10)
    return []


def logging_calls(log, names, seconds=2e-4):
    def call(name):
        log.append(name)
        time.sleep(seconds)

    return {name: lambda name=name: call(name) for name in names}


def test_every_round_calls_everyone_once_and_orders_differ(log):
    times = time_interleaved(logging_calls(log, "abc"), rounds=8, seconds=10)
    rounds = ["".join(log[-24:][start : start + 3]) for start in range(0, 24, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) > 1
    assert {name: len(samples) for name, samples in times.items()} == {"a": 8, "b": 8, "c": 8}


def test_orders_come_from_the_seed(log):
    def order(seed):
        log.clear()
        time_interleaved(logging_calls(log, "abcd"), rounds=5, seconds=10, seed=seed)
        return log[-20:]

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.fixture
def take(monkeypatch):
    """Takes seconds, of a clock that nothing else moves."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def take(seconds):
        now[0] += seconds

    return take


def test_times_are_seconds_a_call(take):
    times = time_interleaved({"slow": lambda: take(0.25), "fast": lambda: take(0.125)}, rounds=3, seconds=10)
    assert times == {"slow": [0.25] * 3, "fast": [0.125] * 3}


def test_short_calls_repeat_within_a_sample(take, monkeypatch):
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1.0)
    calls = []
    times = time_interleaved({"short": lambda: calls.append(take(2**-6))}, rounds=3, seconds=10)
    assert times == {"short": [2**-6] * 3}  # a call, not a sample
    assert len(calls) == 4 + 3 * 64  # to warm up and to find out how short, and then three samples


def test_cold_calls_once_a_sample_and_without_warm_up(log):
    time_interleaved(logging_calls(log, "a", seconds=0), rounds=4, seconds=10, cold=True)
    assert log == ["a"] * 4


def test_time_ends_the_rounds_but_not_before_three(log):
    times = time_interleaved(logging_calls(log, "ab", seconds=0.01), rounds=100, seconds=0.001)
    assert {len(samples) for samples in times.values()} == {3}


def test_garbage_collection_rests_while_measuring_and_comes_back(log):
    seen = []
    with pytest.raises(ZeroDivisionError):
        time_interleaved({"a": lambda: seen.append(gc.isenabled()) or 1 / 0}, rounds=1, seconds=1, cold=True)
    assert seen == [False]
    assert gc.isenabled()


def test_the_interval_of_a_median_is_as_sure_as_it_says():
    """By counting: how often the interval of 15 uniform numbers holds their median, 1/2."""
    numbers = random.Random(0)
    intervals = [median_interval([numbers.random() for _ in range(15)]) for _ in range(4000)]
    assert (
        0.95 < sum(lower <= 0.5 <= upper for lower, upper in intervals) / len(intervals) < 0.975
    )  # 0.965 by binomials
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_interval(list(range(100))) == (39, 60)  # as the tables of the sign test have it
