from __future__ import annotations

import numpy as np
import pytest

from skreg.figures import draw, layer_curves, training_curves
from skreg.figures.training import MEASURES
from skreg.training import RunError


@pytest.fixture
def runs(make_run, make_record):
    """Three epochs of V, the second one best; one epoch of AR."""
    plain, smooth = make_run("V"), make_run("AR")
    plain.log[:] = [make_record(epoch, loss=3.0 / epoch, score=0.7 if epoch == 2 else 0.5) for epoch in (1, 2, 3)]
    return {"V": plain, "AR": smooth}


def lines(panel):
    """Data of the lines, those that mark the best epoch left out."""
    return [line.get_data() for line in panel.lines if line.get_marker() == "None"]


def test_lines_are_the_numbers_of_the_logs(runs):
    figure = training_curves(runs)
    assert [axes.get_title() for axes in figure.axes] == list(MEASURES.values())
    for panel, key in zip(figure.axes, MEASURES, strict=True):
        for (epochs, values), run in zip(lines(panel), runs.values(), strict=True):
            assert list(epochs) == [record["epoch"] for record in run.log]
            assert list(values) == [record[key] for record in run.log]


def test_a_dot_marks_the_best_epoch(runs):
    (panel, *_), dots = training_curves(runs).axes, {}
    for line in panel.lines:
        if line.get_marker() == "o":
            dots[line.get_color()] = tuple(np.concatenate(line.get_data()))
    assert list(dots.values()) == [(2, 1.5), (1, 2.5)]


@pytest.mark.parametrize("measure", ["roughness", "norm"])
def test_a_panel_for_each_layer(runs, measure):
    figure = layer_curves(runs, measure)
    assert [axes.get_title() for axes in figure.axes] == ["conv1.weight", "conv2.weight"]
    for index, panel in enumerate(figure.axes):
        for (_, values), run in zip(lines(panel), runs.values(), strict=True):
            assert list(values) == [record["layers"][index][measure] for record in run.log]
        assert panel.get_ylim()[0] == 0


def test_nets_with_other_layers_side_by_side(runs):
    runs["AR"].log[0]["layers"] = [{"name": "stem.weight", "roughness": 1.0, "norm": 2.0}]
    figure = layer_curves(runs)
    assert [axes.get_title() for axes in figure.axes] == ["conv1.weight", "conv2.weight", "stem.weight"]
    assert [len(lines(panel)) for panel in figure.axes] == [1, 1, 1]


def test_drawings_say_what_is_seen(make_run):
    drawings = list(draw([make_run("VR"), make_run("V")], only=["training"]))
    assert [each.name for each in drawings] == ["training", "training-roughness", "training-norm"]
    assert "10 steps, on 500 of them" in drawings[0].caption
    assert "V 0.600, VR 0.600; under PGD V 0.300" in drawings[0].alt
    assert "V 2.5, VR 2.5" in drawings[1].alt


def test_what_cannot_be_drawn_is_an_error(runs):
    with pytest.raises(ValueError, match="runs: expected at least one"):
        training_curves({})
    with pytest.raises(ValueError, match="measure must be one of"):
        layer_curves(runs, "energy")
    del runs["V"].log[1]["penalty"]
    with pytest.raises(RunError, match=r"V/log.jsonl, line 2: penalty is missing"):
        training_curves(runs)
    runs["V"].log.clear()
    with pytest.raises(RunError, match=r"V has no finished epoch to draw"):
        layer_curves(runs)
