"""Each example runs to its end, without a network, and makes kernels smoother."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """In an empty folder, without a hub, and with the random state as it was afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    with torch.random.fork_rng():
        yield


def roughness(output: str) -> tuple[float, float]:
    found = re.search(r"^mean roughness: ([\d.]+) -> ([\d.]+)$", output, re.MULTILINE)
    assert found, output
    return float(found[1]), float(found[2])


@pytest.mark.parametrize(
    ("name", "needs", "arguments"),
    [
        ("plain_loop", "torch", []),
        ("plain_loop", "torch", ["--amp"]),
        ("lightning_callback", "lightning", []),
        ("transformers_trainer", "transformers", []),
        ("timm_model", "timm", []),
    ],
)
def test_example_makes_kernels_smoother(name, needs, arguments, monkeypatch, capsys):
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    file = EXAMPLES / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(file), *arguments])
    runpy.run_path(str(file), run_name="__main__")
    before, after = roughness(capsys.readouterr().out)
    assert after < 0.8 * before


@pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch has no gloo processes",
)
def test_ddp_makes_kernels_smoother_and_its_processes_agree():
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",  # two processes need not find two GPUs
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    command = [*launch, str(ROOT / "tests" / "gloo_threads.py"), str(EXAMPLES / "ddp.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = roughness(done.stdout)
    assert after < 0.8 * before


@pytest.mark.parametrize(
    "file", [file for file in sorted(EXAMPLES.glob("*.py")) if file.name != "demo.py"], ids=lambda file: file.name
)
def test_example_is_under_60_lines(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) < 60
