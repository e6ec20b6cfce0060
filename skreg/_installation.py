"""What this installation is: versions, device, build of the native op, data sets."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from skreg._version import __version__

_PACKAGES = ("torchvision", "numpy", "foolbox", "safetensors")


def versions() -> dict[str, str]:
    """Version of Python, of skreg and of the packages whose version can change a result."""
    # Of torch the one that is loaded, which also says what it was built for (+cu130, +cpu).
    own = {"skreg": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return {**own, **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def device_facts(device: torch.device) -> dict[str, object]:
    """Type and name of `device`, and the number of CPU threads that torch uses."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"type": device.type, "name": name, "threads": torch.get_num_threads()}


def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, `-dirty` when changed; None when installed."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def describe_installation(data_root: str | None = None) -> dict[str, dict[str, object]]:
    """Everything that `skreg info` shows, by topic.

    Args:
        data_root: folder to look for data sets in, as for `skreg.data.load`.
    """
    from skreg.data import DATASETS
    from skreg.self_test import build_report

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "versions": {**versions(), "commit": git_commit()},
        "device": device_facts(device),
        "native op": build_report(),
        "data sets": {name: _availability(name, data_root) for name in DATASETS},
    }


def _availability(name: str, root: str | None) -> str:
    """Whether a test image of a data set can be read, and if not, why."""
    from skreg.data import DatasetFormatError, load

    try:
        load(name, "test", root, limit=1)
    except (OSError, DatasetFormatError, ModuleNotFoundError) as error:
        return f"not usable: {error}"
    return "found"
