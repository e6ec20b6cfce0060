"""A share of images, with the uncertainty that comes from their number."""

from __future__ import annotations

import math
from dataclasses import dataclass

_Z95 = 1.959964  # two-sided 95% of the normal distribution


@dataclass(frozen=True)
class Proportion:
    """`count` of `total` images."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share, NaN of no images."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of Wilson (1927), which holds for shares near 0 and 1 and for few images."""
        if not self.total:
            return 0.0, 1.0
        n, z = self.total, _Z95
        centre = (self.count + z * z / 2) / (n + z * z)
        half = z / (n + z * z) * math.sqrt(self.count * (n - self.count) / n + z * z / 4)
        # Exact where the formula is, whatever the rounding.
        return 0.0 if self.count == 0 else centre - half, 1.0 if self.count == n else centre + half
