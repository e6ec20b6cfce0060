"""The penalty's options, checked in one place."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Normalize = Literal["subtract", "divide"]
Exponentiate = Literal["kernel", "layer"]
Reduction = Literal["sum", "mean"]


@dataclass(frozen=True)
class PenaltyOptions:
    """What the penalty computes from one kernel, one layer and all layers (`docs/method.md`).

    Attributes:
        normalize: what keeps the penalty from being met by shrinking weights: ``"subtract"`` (S = D - E, the
            paper's choice), ``"divide"`` (S = D / E, its second heuristic) or ``None`` (S = D).
        exponentiate: ``"kernel"`` (sum of exp(S)), ``"layer"`` (exp of the sum of S) or ``None`` (sum of S).
        reduction: ``"sum"`` or ``"mean"`` over the kernels of a layer.
        connectivity: which positions are neighbours, as in ``scipy.ndimage.generate_binary_structure``: 1 along
            the axes, 2 with diagonals, 3 with space diagonals. A value above a weight's number of spatial
            dimensions means all of its neighbours.
        max_exponent: exp continues as a straight line above this exponent; ``None`` never.

    Raises:
        ValueError: for a value that is none of these.
        TypeError: for a connectivity or max_exponent that is no number.

    Example:
        >>> PenaltyOptions(reduction="mean").max_exponent is None
        True
    """

    normalize: Normalize | None = "subtract"
    exponentiate: Exponentiate | None = "kernel"
    reduction: Reduction = "sum"
    connectivity: int = 1
    max_exponent: float | None = None

    def __post_init__(self) -> None:
        _check_choice("normalize", self.normalize, (*get_args(Normalize), None))
        _check_choice("exponentiate", self.exponentiate, (*get_args(Exponentiate), None))
        _check_choice("reduction", self.reduction, get_args(Reduction))
        if isinstance(self.connectivity, bool) or not isinstance(self.connectivity, int):
            raise TypeError(f"connectivity: expected 1, 2 or 3, found {self.connectivity!r}")
        _check_choice("connectivity", self.connectivity, (1, 2, 3))
        if self.max_exponent is not None:
            if isinstance(self.max_exponent, bool) or not isinstance(self.max_exponent, (int, float)):
                raise TypeError(f"max_exponent: expected a number or None, found {self.max_exponent!r}")
            if not math.isfinite(self.max_exponent):
                raise ValueError(f"max_exponent: expected a finite number or None, found {self.max_exponent!r}")

    def as_dict(self) -> dict[str, Any]:
        """The options as keyword arguments."""
        return asdict(self)

    def native(self) -> tuple[int, int, bool, int, float]:
        """The same as the native operators take them: codes in the order of `csrc/penalty.h`."""
        return (
            {"subtract": 0, "divide": 1, None: 2}[self.normalize],
            {"kernel": 0, "layer": 1, None: 2}[self.exponentiate],
            self.reduction == "mean",
            self.connectivity,
            math.inf if self.max_exponent is None else float(self.max_exponent),
        )


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        expected = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}: expected one of {expected}; found {value!r}")
