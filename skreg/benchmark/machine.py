"""Where it was measured: what a figure in a table means nothing without."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from skreg import native
from skreg._installation import git_commit
from skreg._version import __version__


def describe_machine(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """Device, processor, how many this process may use, SIMD level, compiler, versions, commit."""
    device = torch.device(device)
    module = native.cpu_module
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": _cpu_model(),
        "processors": _processors(),
        "simd": module.simd_level() if module else "none",
        "compiler": module.compiler if module else "none",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "skreg": __version__,
        "commit": git_commit() or "unknown",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
