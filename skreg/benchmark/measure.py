"""From cases to measurements: prepare the contenders, check that they agree, time them, compare."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skreg import native, reference
from skreg._checks import check_count, check_number
from skreg.benchmark.cases import OPTIONS, Case
from skreg.benchmark.contenders import (
    CONTENDERS,
    COPY_FRESH,
    COPY_READY,
    Call,
    Result,
    Unavailable,
    count_bytes,
)
from skreg.benchmark.timing import time_interleaved
from skreg.benchmark.weights import make_weights
from skreg.options import PenaltyOptions

# Largest error of a gradient, as a share of the layer's largest: what rounding of results and sums leaves.
_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2**-8}


@dataclass(frozen=True)
class Measurement:
    """One contender in one case; None where it did not run, and in `note` the reason.

    Attributes:
        count: number of weights.
        samples: how many times were measured; they give the median and the quartiles, in microseconds a call.
        times_first: median as a multiple of that of the case's first contender, which is skreg.
        gb_per_s: 1e9 bytes a second, by what the task has to move: see `Contender.passes`.
        of_fresh_copy, of_ready_copy: gb_per_s as a share of that of a copy to fresh, to ready memory.
    """

    section: str
    weights: str
    tensors: int
    count: int
    dtype: str
    layout: str
    exponentiate: str
    cache: str
    threads: int
    contender: str
    samples: int
    lower_us: float | None
    median_us: float | None
    upper_us: float | None
    times_first: float | None
    gb_per_s: float | None
    of_fresh_copy: float | None
    of_ready_copy: float | None
    note: str


def run_cases(
    cases: Iterable[Case],
    *,
    rounds: int = 30,
    seconds: float = 10.0,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Measurement]:
    """Measure all contenders of all cases.

    Args:
        rounds: samples a contender.
        seconds: time for a case; then it ends with fewer rounds, but not less than three.
        device: where the weights are.
        seed: of the weights and of the order in each round.
        progress: told what is measured next.

    Raises:
        RuntimeError: skreg's native operator is missing.
        AssertionError: a contender computed something else than the penalty and its gradient.
        ValueError, TypeError: rounds or seconds are no positive numbers.
    """
    check_count("rounds", rounds)
    check_number("seconds", seconds, positive=True)
    device = torch.device(device)
    if not native.supports(device.type):
        raise RuntimeError(f"there is no native operator for {device.type} here, and so nothing to measure")
    threads = torch.get_num_threads()
    measurements = []
    try:
        for case in cases:
            if progress is not None:
                progress(f"{case.section}: {case.weights}, {case.exponentiate}, {case.threads} threads")
            torch.set_num_threads(case.threads)
            measurements += _run_case(case, rounds, seconds, device, seed)
    finally:
        torch.set_num_threads(threads)
    return measurements


def _run_case(case: Case, rounds: int, seconds: float, device: torch.device, seed: int) -> list[Measurement]:
    weights = make_weights(case.shapes, device=device, seed=seed)
    calls, notes = prepare(case.contenders, weights, OPTIONS[case.exponentiate])
    times = time_interleaved(calls, rounds=rounds, seconds=seconds, cold=case.cold, device=device, seed=seed)
    medians = {name: statistics.median(samples) for name, samples in times.items()}
    forms = {name: CONTENDERS[name].form(weights) for name in case.contenders}
    rates = {
        name: passes * count_bytes(forms[name]) / medians[name] / 1e9
        for name in calls
        if (passes := CONTENDERS[name].passes) is not None
    }
    measurements = []
    for name in case.contenders:
        samples = times.get(name, [])
        lower, upper = _quartiles(samples)
        measurements.append(
            Measurement(
                section=case.section,
                weights=case.weights,
                tensors=len(weights),
                count=sum(weight.numel() for weight in weights),
                dtype=str(forms[name][0].dtype).removeprefix("torch."),
                layout="contiguous" if all(map(_is_contiguous, forms[name])) else "channels_last",
                exponentiate=case.exponentiate,
                cache="cold" if case.cold else "warm",
                threads=case.threads,
                contender=name,
                samples=len(samples),
                lower_us=_rounded(lower, 1e6),
                median_us=_rounded(medians.get(name), 1e6),
                upper_us=_rounded(upper, 1e6),
                times_first=_ratio(medians, name, case.contenders[0]),
                gb_per_s=_rounded(rates.get(name)),
                of_fresh_copy=_ratio(rates, name, COPY_FRESH),
                of_ready_copy=_ratio(rates, name, COPY_READY),
                note=notes.get(name, ""),
            )
        )
    return measurements


def prepare(
    names: Sequence[str], weights: list[Tensor], options: PenaltyOptions
) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls of the contenders that can run, their results checked, and why the others cannot.

    Raises:
        AssertionError: a contender returned something else than the penalty and its gradient; names it.
    """
    calls: dict[str, Call] = {}
    notes: dict[str, str] = {}
    expected: dict[torch.dtype, tuple[float, list[Tensor]]] = {}  # by dtype: bfloat16 weights are other weights
    for name in names:
        contender = CONTENDERS[name]
        own = contender.form(weights)
        try:
            call = contender.prepare(own, options)
        except Unavailable as reason:
            notes[name] = str(reason)
            continue
        if contender.checked:
            dtype = own[0].dtype
            if dtype not in expected:
                expected[dtype] = expected_result(own, options)
            _check(name, call(), expected[dtype], _TOLERANCES[dtype])
        calls[name] = call
    return calls, notes


def expected_result(weights: Sequence[Tensor], options: PenaltyOptions) -> tuple[float, list[Tensor]]:
    """Value and gradients in float64, layer by layer to save memory; each gradient of its weight's dtype."""
    value, gradients = 0.0, []
    for weight in weights:
        leaf = weight.detach().double().requires_grad_()
        (layer,) = reference.penalties([leaf], options)
        (gradient,) = torch.autograd.grad(layer, leaf)
        value += layer.item()
        gradients.append(gradient.to(weight.dtype))
    return value, gradients


def _check(name: str, found: Result, expected: tuple[float, list[Tensor]], tolerance: float) -> None:
    value, gradients = found
    if value is not None and not math.isclose(value.item(), expected[0], rel_tol=1e-4):
        raise AssertionError(f"{name}: expected the value {expected[0]:.8g}, found {value.item():.8g}")
    if len(gradients) != len(expected[1]):
        raise AssertionError(f"{name}: expected {len(expected[1])} gradients, found {len(gradients)}")
    for index, (gradient, right) in enumerate(zip(gradients, expected[1], strict=True)):
        error = (gradient.float() - right.float()).abs().max().item()
        largest = right.float().abs().max().item()
        if not error <= tolerance * largest:
            raise AssertionError(
                f"{name}: gradient {index} is off by {error:.3g}, more than {tolerance:.1g} of its largest "
                f"element {largest:.3g}"
            )


def _is_contiguous(weight: Tensor) -> bool:
    return weight.is_contiguous()


def _quartiles(samples: Sequence[float]) -> tuple[float | None, float | None]:
    if not samples:
        return None, None
    if len(samples) == 1:
        return samples[0], samples[0]
    lower, _, upper = statistics.quantiles(samples, n=4, method="inclusive")
    return lower, upper


def _ratio(values: Mapping[str, float], name: str, base: str) -> float | None:
    return _rounded(values[name] / values[base]) if name in values and base in values else None


def _rounded(value: float | None, factor: float = 1.0) -> float | None:
    """Five digits: more than the measurement holds, and no noise in the files."""
    return None if value is None else float(f"{value * factor:.5g}")
