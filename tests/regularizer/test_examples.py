"""The examples in the docstrings run."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from skreg import effective, hook, regularizer, sharding, stability


@pytest.mark.parametrize("module", [effective, hook, regularizer, sharding, stability], ids=lambda m: m.__name__)
def test_examples(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.failed == 0
    assert found.attempted > 0
