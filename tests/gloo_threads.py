"""`gloo_threads.py PROGRAM ARGUMENT...` runs a program, and fails where threads of gloo outlive its process group.

Such a thread can abort the process at its end (pytorch/pytorch#190489), but does in one launch of some fifty.
"""

from __future__ import annotations

import contextlib
import runpy
import sys
from pathlib import Path

sys.argv = sys.argv[1:]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
threads = []
for file in Path("/proc/self/task").glob("*/comm"):
    with contextlib.suppress(OSError):  # it has just ended
        threads.append(file.read_text().strip())
assert "pt_gloo_runloop" not in threads, threads
