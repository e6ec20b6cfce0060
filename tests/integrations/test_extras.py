"""Without its extra, an integration says which one to install."""

import importlib
import sys

import pytest


@pytest.mark.parametrize(("name", "needs"), [("lightning", "lightning.pytorch"), ("transformers", "transformers")])
def test_error_names_the_extra(name, needs, monkeypatch):
    module = f"skreg.integrations.{name}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    for loaded in [key for key in sys.modules if key.split(".")[0] == needs.split(".")[0]]:
        monkeypatch.delitem(sys.modules, loaded)
    finder = type("Absent", (), {"find_spec": staticmethod(absent(needs.split(".")[0]))})
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match=rf"skreg\[{name}\]"):
        importlib.import_module(module)


def test_tensorboard_is_asked_for_when_it_is_used(monkeypatch, tmp_path):
    for loaded in [key for key in sys.modules if key.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    finder = type("Absent", (), {"find_spec": staticmethod(absent("tensorboard"))})
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    progress = importlib.import_module("skreg.integrations.tensorboard").TensorBoardProgress
    with pytest.raises(ModuleNotFoundError, match=r"skreg\[tensorboard\]"):
        progress(tmp_path)


def absent(package):
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    return find_spec
