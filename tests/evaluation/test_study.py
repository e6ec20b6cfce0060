"""The tables of docs/results/study.py: on distances and runs whose numbers are known."""

from __future__ import annotations

import csv
import importlib.util
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from skreg.training import TrainConfig, load_run, train

pytest.importorskip("matplotlib")
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "results" / "study.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("study", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, options in {
        "V/plain": {"variant": "V", "optimizer_options": {"weight_decay": 0.1}},
        "V/D": {"variant": "VR", "normalize": None, "exponentiate": None, "include": ("conv1.*",)},
    }.items():
        config = TrainConfig(
            data="four-shapes",
            epochs=1,
            limit=40,
            batch_size=20,
            validation_attack_images=2,
            validation_attack_steps=1,
            device="cpu",
            **options,
        )
        train(config, folder / name)
    return folder


def rows(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_ratios_are_of_the_images_that_both_searches_found(study):
    distances = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, math.inf, 1.0], dtype=torch.float64)
    others = torch.tensor([2.0, 4.0, 8.0, 9.0, 0.0, 9.0, math.inf], dtype=torch.float64)
    count, median, lower, upper = study.compare(distances, others, torch.Generator().manual_seed(0))
    assert (count, lower, upper) == (3, pytest.approx(2), pytest.approx(8))
    assert median == pytest.approx(4)


def test_no_images_to_compare(study):
    count, *numbers = study.compare(torch.zeros(2), torch.ones(2), torch.Generator())
    assert count == 0
    assert all(math.isnan(number) for number in numbers)


def test_the_plane_has_a_panel_for_each_layer_that_any_run_has(study, folder):
    figure = study.plane(study.read_runs(folder))
    assert [axes.get_title() for axes in figure.axes] == ["conv1.weight", "conv2.weight"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]
    assert [text.get_text() for text in figure.legends[0].texts] == ["VR", "V with weight decay"]


def test_tables_and_pictures(study, folder, tmp_path):
    for name, scale in {"V/plain": 1.0, "V/D": 3.0}.items():
        (folder / name / "evaluation").mkdir(exist_ok=True)
        save_file(
            {"linf": scale * torch.ones(5, dtype=torch.float64)}, folder / name / "evaluation/paper-pgd.safetensors"
        )
    study.main([str(folder), str(tmp_path), "--pair", "V/plain", "V/D", "--fourier", "V/D", "--limit", "4"])

    found = {row["run"]: row for row in rows(tmp_path / "runs.csv")}
    assert found["V/plain"]["penalty"] == ""
    assert found["V/plain"]["weight_decay"] == "0.1"
    assert found["V/D"]["penalty"] == "sum of D, conv1.* only"
    assert found["V/D"]["strength"] == "0.001"
    layer = load_run(folder / "V/D").log[0]["layers"][0]
    assert float(found["V/D"]["conv1_roughness"]) == pytest.approx(layer["roughness"], abs=1e-3)

    (pair,) = rows(tmp_path / "pairs.csv")
    assert (pair["images"], pair["attack"], float(pair["median_ratio"])) == ("5", "pgd", pytest.approx(3))
    rates = [float(row["error"]) for row in rows(tmp_path / "fourier.csv")]
    assert len(rates) == study.RINGS
    assert all(0 <= rate <= 1 for rate in rates)
    for name in ("plane", "fourier"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_run_is_named(study, folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        study.main([str(folder), str(tmp_path), "--pair", "V/plain", "V/other"])
    assert "no finished run V/other" in capsys.readouterr().err
