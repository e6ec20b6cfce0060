"""Imports of optional dependencies, with an error that names the extra to install."""

from __future__ import annotations

import importlib
import os
from typing import Any


def require(module: str, extra: str) -> Any:
    """Import and return `module`, which belongs to the optional extra `extra`.

    Raises:
        ModuleNotFoundError: when it is not installed; the message names the extra.
    """
    if module.split(".")[0] == "foolbox":
        # Foolbox imports GitPython, which refuses to load where there is no git program.
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise ModuleNotFoundError(
            f'skreg needs "{error.name}" for this; install it with: pip install "skreg[{extra}]"',
            name=error.name,
        ) from error
