"""What the operators move through a GPU's memory, and how long that takes at least: arithmetic, no measurement.

`python benchmarks/roofline.py` prints the table of docs/cuda.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from skreg.benchmark.weights import WEIGHT_SETS

H100_BYTES_PER_SECOND = 3.35e12  # SXM5, HBM3, by its data sheet
ENTRY_POINTS = ("value", "value_and_gradients", "gradients", "add_gradients_", "scale_", "hessian_vector")
_READS = {"value": 1, "value_and_gradients": 1, "gradients": 1, "add_gradients_": 2, "scale_": 1, "hessian_vector": 2}


def bytes_moved(entry_point: str, shapes: Sequence[Sequence[int]], *, element: int = 4, by_layer: bool = False) -> int:
    """Bytes that a call reads and writes; scratch of 16 bytes a chunk is left out.

    Args:
        entry_point: one of `ENTRY_POINTS`.
        shapes: the weights.
        element: bytes of an element of weights, gradients and vectors.
        by_layer: for ``exponentiate="layer"``, which reads all that its sums need once more before any result.
    """
    passes = _READS[entry_point] + (entry_point != "value")
    if by_layer and entry_point not in ("value", "scale_"):
        passes += 2 if entry_point == "hessian_vector" else 1
    return passes * element * sum(map(math.prod, shapes))


def table() -> str:
    """The Markdown table: megabytes, and microseconds on an H100, in float32."""
    nets = ("two_conv", "resnet50", "wrn_34_10")
    lines = ["| entry point | " + " | ".join(nets) + " |", "|---|" + "---:|" * len(nets)]
    for by_layer in (False, True):
        for name in ENTRY_POINTS:
            if by_layer and name in ("value", "scale_"):
                continue
            moved = [bytes_moved(name, WEIGHT_SETS[net], by_layer=by_layer) for net in nets]
            cells = [f"{n / 1e6:.1f} MB, {n / H100_BYTES_PER_SECOND * 1e6:.1f} us" for n in moved]
            lines.append(f"| `{name}`{', layer' if by_layer else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
