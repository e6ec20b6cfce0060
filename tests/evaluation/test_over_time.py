"""docs/results/over_time.py trains by the library's own loop, each form as it is called."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import pytest

from skreg.training import TrainConfig

pytest.importorskip("matplotlib")
FOLDER = Path(__file__).resolve().parents[2] / "docs" / "results"


@pytest.fixture
def over_time(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    specification = importlib.util.spec_from_file_location("over_time", FOLDER / "over_time.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    small = TrainConfig(data="four-shapes", net="two_conv", limit=50, validation_fraction=0.2, epochs=2, batch_size=10)
    monkeypatch.setattr(module, "CONFIG", small.resolved())
    yield module
    sys.modules.pop("study", None)


def test_each_form_is_what_it_is_called(over_time, tmp_path, capsys):
    output = tmp_path / "forms.csv"
    over_time.main([str(output), "--images", "20", "--strength", "10"])
    rows = {row["form"]: row for row in csv.DictReader(output.open())}
    assert list(rows) == list(over_time.FORMS)
    roughness = {form: float(row["conv2_roughness"]) for form, row in rows.items()}
    assert roughness["constant"] < min(roughness["warm-up"], roughness["decay"])
    assert max(roughness["warm-up"], roughness["decay"], roughness["decoupled"]) < roughness["none"]
    assert rows["none"]["strength"] == "0"
    capsys.readouterr()
    over_time.main([str(output), "--images", "20", "--strength", "10"])
    assert capsys.readouterr().out == ""  # nothing is trained twice
