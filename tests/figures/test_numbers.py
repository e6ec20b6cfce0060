from __future__ import annotations

import os

import pytest
import torch

from skreg.figures.numbers import digest, keep
from skreg.training import RunError


class Counted:
    """Computes three numbers, and counts how often."""

    calls = 0

    def __call__(self) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {"values": torch.arange(3.0) + self.calls, "flags": torch.tensor([True, False])}


def test_the_same_facts_are_computed_once(tmp_path):
    compute, folder = Counted(), tmp_path / "made" / "here"
    first = keep(folder, "a", {"seed": 0}, compute)
    again = keep(folder, "a", {"seed": 0}, compute)
    assert compute.calls == 1
    assert {name: tensor.tolist() for name, tensor in first.items()} == {"values": [1, 2, 3], "flags": [True, False]}
    assert all(torch.equal(first[name], again[name]) and first[name].dtype == again[name].dtype for name in first)
    keep(folder, "a", {"seed": 1}, compute)
    keep(folder, "b", {"seed": 0}, compute)
    assert compute.calls == 3
    assert len(os.listdir(folder)) == 3


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compute = Counted()
    keep(None, "a", {}, compute)
    keep(None, "a", {}, compute)
    assert compute.calls == 2
    assert os.listdir(tmp_path) == []


def test_an_interrupted_computation_leaves_nothing(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path, "a", {}, interrupted)
    assert os.listdir(tmp_path) == []


def test_a_damaged_file_is_named(tmp_path):
    keep(tmp_path, "a", {}, Counted())
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(RunError, match=f"{file.name}: damaged .* delete it"):
        keep(tmp_path, "a", {}, Counted())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot make the folder"):
        keep(tmp_path / "file" / "numbers", "a", {}, Counted())


def test_digest_sees_names_values_and_shapes():
    base = {"a": torch.arange(4.0)}
    assert digest(base) == digest({"a": torch.arange(4.0)})
    others = [{"b": torch.arange(4.0)}, {"a": torch.arange(4.0) + 1}, {"a": torch.arange(4.0)[None]}]
    assert len({digest(base), *map(digest, others)}) == 4
