"""`make gpu-check` as far as it can be checked without a GPU: that it says so, and that it runs under the emulation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, **environment):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_without_a_gpu_it_says_that_it_needs_one(tmp_path):
    done = run("--output", tmp_path / "report.md", CUDA_VISIBLE_DEVICES="", LD_PRELOAD="", PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert "gpu-check needs a GPU" in done.stderr
    assert not (tmp_path / "report.md").exists()


def test_it_writes_a_report(emulator, tmp_path):
    report = tmp_path / "report.md"
    done = run("--no-tests", "--nets", "two_conv", "--rounds", "1", "--output", report)
    assert done.returncode == 0, done.stdout + done.stderr
    text = report.read_text()
    assert "CUDA graph: passed" in text
    assert "the times mean nothing" in text
    assert text.count("| two_conv |") == 2 * 7
