"""The examples in docstrings run, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from types import FunctionType, ModuleType

import pytest

import skreg

LAB = ("skreg.attacks", "skreg.losses", "skreg.models", "skreg.data")
INTEGRATIONS = ("integrations.lightning", "integrations.transformers", "integrations.tensorboard")
NEEDS = {
    "skreg.integrations.lightning": "lightning",
    "skreg.integrations.transformers": "accelerate",
    "skreg.integrations.tensorboard": "tensorboard",
    "skreg.models.nets": "torchvision",
    "skreg.attacks.adef": "foolbox",
}
CORE = ("penalty", "options", "statistics", "regularizer", "hook", "effective", "sharding", "stability")


def exported(module: ModuleType) -> list[str]:
    """The classes and functions of its `__all__`; an exception is raised, not called, and a table is no function."""
    values = {name: getattr(module, name) for name in module.__all__}
    return [name for name, value in values.items() if callable(value) and not _is_exception(value)]


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def public_names() -> list[str]:
    """What skreg and the lab export, the regularizer's methods and properties, and what else a training loop uses."""
    members = vars(skreg.SmoothKernelRegularizer).items()
    kinds = (FunctionType, property)
    packages = [importlib.import_module(package) for package in LAB]
    return [
        *(f"skreg:{name}" for name in exported(skreg)),
        *(f"skreg:SmoothKernelRegularizer.{n}" for n, m in members if isinstance(m, kinds) and not n.startswith("_")),
        *("skreg.hook:attach", "skreg.stability:largest_stable_step", "skreg.options:PenaltyOptions"),
        *(f"{package.__name__}:{name}" for package in packages for name in exported(package)),
    ]


def modules() -> list[str]:
    """Where the examples of all these stand."""
    lab = [pkgutil.resolve_name(name).__module__ for name in public_names() if name.split(":")[0] in LAB]
    others = (*CORE, *INTEGRATIONS, "benchmark.timing", "attacks.adef")
    return [*(f"skreg.{name}" for name in others), *dict.fromkeys(lab)]


@pytest.mark.parametrize("name", modules())
def test_examples_run(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0
    assert found.attempted > 0


@pytest.mark.parametrize("name", public_names())
def test_public_names_have_an_example(name: str) -> None:
    assert ">>>" in (inspect.getdoc(pkgutil.resolve_name(name)) or "")


@pytest.mark.parametrize("name", [*INTEGRATIONS, "attacks.adef"])
def test_what_needs_an_extra_has_an_example(name: str) -> None:
    """These modules export what they define; their packages must load without the extra."""
    pytest.importorskip(NEEDS[f"skreg.{name}"])
    module = importlib.import_module(f"skreg.{name}")
    defined = {
        public: value
        for public, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not public.startswith("_")
    }
    assert defined
    assert [public for public, value in defined.items() if ">>>" not in (value.__doc__ or "")] == []
