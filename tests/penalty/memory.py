"""Prints, as JSON, by how many bytes each call makes the resident memory rise: for every form and layout.

Run by `test_memory.py` in a process of its own: in one that has run for long, the heap may hold a free piece that is
large enough for a result, and resident already.
"""

import itertools
import json
from pathlib import Path

import torch

from skreg import native
from skreg.options import PenaltyOptions

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def growth(call):
    """Bytes by which the resident memory rose above what it was, while `call` ran."""
    CLEAR.write_text("5")  # the peak is now the present
    before = peak()
    result = call()
    after = peak()
    del result
    return after - before


def peak():
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def growths(exponentiate, layout):
    """The growth of each call on a weight of 36 MiB, by the call's name."""
    weight = torch.zeros(1024, 1024, 3, 3)
    if layout == "channels_last":
        weight = weight.contiguous(memory_format=torch.channels_last)
    gradient = torch.zeros_like(weight) + 1  # written, so that it is resident
    one = torch.ones(1, dtype=torch.float64)
    codes = PenaltyOptions(exponentiate=exponentiate, reduction="mean").native()
    calls = {
        "value": lambda: native.operators.value([weight], one, *codes),
        "add_gradients_": lambda: native.operators.add_gradients_([weight], [gradient], one, None, *codes),
        "value_and_gradients": lambda: native.operators.value_and_gradients([weight], one, *codes),
    }
    calls["add_gradients_"]()  # threads, first use of code
    return {name: growth(call) for name, call in calls.items()}


if __name__ == "__main__":
    cases = itertools.product(["kernel", "layer", None], ["contiguous", "channels_last"])
    print(json.dumps({f"{exponentiate}, {layout}": growths(exponentiate, layout) for exponentiate, layout in cases}))
