"""What is compared with what: the sections of the benchmark as lists of cases."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from skreg._checks import check_count
from skreg.benchmark.contenders import (
    COMPILED,
    COPY_BFLOAT16,
    COPY_FRESH,
    COPY_READY,
    OURS,
    OURS_ADD,
    OURS_BFLOAT16,
    OURS_BFLOAT16_LAST,
    OURS_LAST,
)
from skreg.benchmark.weights import GROWING_SETS, WEIGHT_SETS, Shape
from skreg.options import PenaltyOptions

COPIES = (COPY_FRESH, COPY_READY)
OPTIONS = {
    "none": PenaltyOptions(exponentiate=None),
    "kernel": PenaltyOptions(),
    # The mean, because exp of the sum over a layer of a ResNet is beyond float32.
    "layer": PenaltyOptions(exponentiate="layer", reduction="mean"),
}


@dataclass(frozen=True)
class Case:
    """Contenders that are measured in turn on the same weights; the others are compared with the first.

    Attributes:
        section: key of `SECTIONS`.
        weights: name of the weights.
        contenders: keys of `skreg.benchmark.contenders.CONTENDERS`.
        exponentiate: key of `OPTIONS`.
        cold: with caches full of something else before each call.
    """

    section: str
    weights: str
    shapes: tuple[Shape, ...]
    contenders: tuple[str, ...]
    threads: int
    exponentiate: str = "kernel"
    cold: bool = False


def _penalty(sets: Sequence[str], threads: int) -> list[Case]:
    contenders = (OURS, "ours, autograd", "matrix", "naive", COMPILED, *COPIES)
    return [
        Case("penalty", name, WEIGHT_SETS[name], contenders, threads, exponentiate)
        for name in sets
        for exponentiate in OPTIONS
    ]


def _cold(sets: Sequence[str], threads: int) -> list[Case]:
    contenders = (OURS, "ours, autograd", "matrix", *COPIES)
    return [Case("cold", name, WEIGHT_SETS[name], contenders, threads, cold=True) for name in sets]


def _add(sets: Sequence[str], threads: int) -> list[Case]:
    contenders = (OURS_ADD, "ours, autograd, add", "matrix, add", "add, same bytes", *COPIES)
    return [Case("add", name, WEIGHT_SETS[name], contenders, threads) for name in sets]


def _formats(sets: Sequence[str], threads: int) -> list[Case]:
    # All forms of the weights in one case: in two cases, a slow spell of the machine could meet one of them alone.
    forms = (OURS, OURS_BFLOAT16, OURS_LAST, OURS_BFLOAT16_LAST)
    return [Case("formats", name, WEIGHT_SETS[name], (*forms, COPY_BFLOAT16, *COPIES), threads) for name in sets]


def _threads(sets: Sequence[str], threads: int) -> list[Case]:
    contenders = (OURS, "matrix", *COPIES)
    return [
        Case("threads", name, WEIGHT_SETS[name], contenders, count) for name in sets for count in thread_counts(threads)
    ]


def _size(sets: Sequence[str], threads: int) -> list[Case]:
    contenders = (OURS, "matrix", "naive", *COPIES)
    return [Case("size", name, shapes, contenders, threads) for name, shapes in GROWING_SETS.items()]


def _small(sets: Sequence[str], threads: int) -> list[Case]:
    contenders = (OURS, "ours, autograd", "naive", "matrix", "ours on one kernel", "autograd alone", *COPIES)
    return [Case("small", "two_conv", WEIGHT_SETS["two_conv"], contenders, threads)]


SECTIONS: dict[str, Callable[[Sequence[str], int], list[Case]]] = {
    "penalty": _penalty,
    "cold": _cold,
    "add": _add,
    "formats": _formats,
    "threads": _threads,
    "size": _size,
    "small": _small,
}
TITLES = {
    "penalty": "Value and gradient",
    "cold": "Value and gradient, nothing in the caches",
    "add": "Adding the gradient to an existing .grad",
    "formats": "Dtypes and layouts",
    "threads": "Threads",
    "size": "Growth with the number of weights",
    "small": "Where the time of one small call goes",
}


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`, which is the last."""
    return sorted({min(2**power, most) for power in range(most.bit_length() + 1)})


def build_cases(
    sections: Sequence[str] = (), sets: Sequence[str] = (), *, threads: int, compiled: bool = True
) -> list[Case]:
    """The cases of `sections`, for the weights in `sets`; all by default.

    Args:
        sections: keys of `SECTIONS`.
        sets: keys of `WEIGHT_SETS`; the sections size and small have weights of their own.
        threads: CPU threads, and the most in the section threads.
        compiled: whether what needs torch.compile takes part.

    Raises:
        ValueError: for a name that does not exist, and for less than one thread.
        TypeError: for threads that are no integer.
    """
    check_count("threads", threads)
    _check_known("section", sections, SECTIONS)
    _check_known("weights", sets, WEIGHT_SETS)
    cases = [
        case for section in sections or SECTIONS for case in SECTIONS[section](tuple(sets or WEIGHT_SETS), threads)
    ]
    if compiled:
        return cases
    return [replace(case, contenders=tuple(c for c in case.contenders if c != COMPILED)) for case in cases]


def _check_known(what: str, names: Sequence[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what}: expected one of {', '.join(known)}; found {name!r}")
