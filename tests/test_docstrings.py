"""The examples in docstrings run, and what a training loop uses has one each."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from types import FunctionType

import pytest

import skreg

MODULES = [
    *("penalty", "options", "statistics", "regularizer", "hook", "effective", "sharding", "stability"),
    *("integrations.lightning", "integrations.transformers", "integrations.tensorboard", "benchmark.timing"),
]
NEEDS = {
    "integrations.lightning": "lightning",
    "integrations.transformers": "accelerate",
    "integrations.tensorboard": "tensorboard",
}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(f"skreg.{name}"))
    assert found.failed == 0
    assert found.attempted > 0


def public_names() -> list[str]:
    """What skreg exports, the regularizer's methods and properties, and what else a training loop uses."""
    names = [name for name in skreg.__all__ if callable(getattr(skreg, name))]
    members = vars(skreg.SmoothKernelRegularizer).items()
    kinds = (FunctionType, property)
    names += [f"SmoothKernelRegularizer.{n}" for n, m in members if isinstance(m, kinds) and not n.startswith("_")]
    modules = ["hook.attach", "stability.largest_stable_step", "options.PenaltyOptions"]
    return names + modules


@pytest.mark.parametrize("name", public_names())
def test_public_names_have_an_example(name: str) -> None:
    value = pkgutil.resolve_name(f"skreg.{name}")
    assert ">>>" in (inspect.getdoc(value) or "")


@pytest.mark.parametrize("module", NEEDS)
def test_integrations_have_an_example(module: str) -> None:
    pytest.importorskip(NEEDS[module])
    name = "write_statistics" if module.endswith("tensorboard") else "SmoothKernelCallback"
    assert ">>>" in getattr(importlib.import_module(f"skreg.{module}"), name).__doc__
