"""A call takes memory for its results, and scratch memory that does not grow with the weights."""

from pathlib import Path

import pytest
import torch

from skreg import native
from skreg.options import PenaltyOptions

SCRATCH = 4 << 20
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_above_now(call):
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


@pytest.mark.skipif(native.cpu_module is None, reason="the native operator is not built")
@pytest.mark.skipif(not CLEAR.exists(), reason="needs Linux's record of the largest resident memory")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("exponentiate", ["kernel", "layer", None])
def test_memory(layout, exponentiate):
    weight = torch.zeros(1024, 1024, 3, 3)
    if layout == "channels_last":
        weight = weight.contiguous(memory_format=torch.channels_last)
    gradient = torch.zeros_like(weight) + 1  # written, so that it is resident
    one = torch.ones(1, dtype=torch.float64)
    codes = PenaltyOptions(exponentiate=exponentiate, reduction="mean").native()
    size = weight.numel() * weight.element_size()
    try:
        CLEAR.write_text("5")
    except OSError:
        pytest.skip("this system does not let a process reset its peak")
    native.operators.add_gradients_([weight], [gradient], one, None, *codes)  # threads, first use of code
    assert peak_above_now(lambda: native.operators.value([weight], one, *codes)) < SCRATCH
    assert peak_above_now(lambda: native.operators.add_gradients_([weight], [gradient], one, None, *codes)) < SCRATCH
    grown = peak_above_now(lambda: native.operators.value_and_gradients([weight], one, *codes))
    assert size - SCRATCH < grown < size + SCRATCH
