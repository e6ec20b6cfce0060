"""Runs `worker.py` with 2 and 4 processes, one launch each, and reports every check in it as a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no gloo processes", allow_module_level=True)

from .checks import CHECKS  # noqa: E402


@pytest.fixture(scope="module", params=[2, 4], ids=lambda count: f"{count} processes")
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each check came to, by name."""
    file = tmp_path_factory.mktemp("distributed") / "report.json"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={request.param}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [*launch, str(WORKER), str(file)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CHECKS)
def test_check(report: dict[str, str], name: str) -> None:
    assert report[name] == "ok", report[name]
