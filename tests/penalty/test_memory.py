"""A call takes memory for its results, and scratch memory that does not grow with the weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skreg import native

SCRATCH = 4 << 20
RESULTS = {"value": 0, "add_gradients_": 0, "value_and_gradients": 36 << 20}
CLEAR = Path("/proc/self/clear_refs")


@pytest.mark.skipif(native.cpu_module is None, reason="the native operator is not built")
@pytest.mark.skipif(not CLEAR.exists(), reason="needs Linux's record of the largest resident memory")
def test_memory():
    try:
        CLEAR.write_text("5")
    except OSError:
        pytest.skip("this system does not let a process reset its peak")
    # Large pieces come from the system and go back to it, whatever was allocated before (glibc's mallopt).
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    script = Path(__file__).with_name("memory.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert len(measured) == 6
    for case, growths in measured.items():
        assert growths.keys() == RESULTS.keys()
        for call, result in RESULTS.items():
            assert result - SCRATCH < growths[call] < result + SCRATCH, (case, call)
