"""How it is measured: all contenders in turn, so that a slow spell of the machine meets them all."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence

import torch

SAMPLE_SECONDS = 1e-3  # a sample repeats a short call until it takes this long
EVICTING_BYTES = 256 << 20  # more than the last-level caches hold
FEWEST_ROUNDS = 3


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    seconds: float,
    cold: bool = False,
    ready: bool = False,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, list[float]]:
    """Time `calls` in rounds, each in a new order.

    Args:
        rounds: samples a call.
        seconds: no new round starts later than this, once there were `FEWEST_ROUNDS`.
        cold: call once a sample, with caches full of something else. Otherwise short calls repeat within a
            sample, so that what fits into a cache is there.
        ready: all were called before and fill a sample each, so that nothing is called to find that out.
        device: where the calls work; an accelerator is waited for before a clock is read.
        seed: of the orders.

    Returns:
        By name, seconds a call in each round.
    """
    device = torch.device(device)
    evicting = torch.zeros(EVICTING_BYTES // 4, device=device) if cold else None
    orders = random.Random(seed)
    repeats = {name: 1 if cold or ready else _repeats(call, device) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        for done in range(rounds):
            if done >= FEWEST_ROUNDS and time.perf_counter() > end:
                break
            for name in orders.sample(list(calls), len(calls)):
                if evicting is not None:
                    evicting.add_(1)
                times[name].append(_time(calls[name], repeats[name], device))
    finally:
        if collecting:
            gc.enable()
    return times


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """A confidence interval of the median of what the samples are drawn from, whatever its distribution.

    It lies between two samples of equal rank from both ends: the median is below the k smallest or above the k largest
    of n with probability ``2 P(Binomial(n, 1/2) < k)``. Of fewer than 6 samples even all are not enough for 95%: then
    from the smallest to the largest.

    Example:
        >>> median_interval([5.0, 1.0, 4.0, 2.0, 3.0, 6.0, 9.0, 8.0, 7.0])
        (2.0, 8.0)
    """
    ordered, count = sorted(samples), len(samples)
    outside, rank = 2.0 ** (1 - count), 0  # that the median is below the smallest, or above the largest
    term = outside
    while 2 * (rank + 1) < count:
        term *= (count - rank) / (rank + 1)
        if outside + term > 1 - confidence:
            break
        outside += term
        rank += 1
    return ordered[rank], ordered[count - 1 - rank]


def _repeats(call: Callable[[], object], device: torch.device) -> int:
    """How many calls fill a sample; warms up on the way."""
    call()
    fastest = _time(call, 1, device)
    if fastest > 10 * SAMPLE_SECONDS:  # one call fills a sample, even were this a slow one
        return 1
    fastest = min(fastest, _time(call, 1, device), _time(call, 1, device))
    return max(1, math.ceil(SAMPLE_SECONDS / fastest))


def _time(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    _wait(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        result = call()
    _wait(device)
    elapsed = time.perf_counter() - begin
    del result  # not before: to free memory is no part of the work
    return elapsed / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
