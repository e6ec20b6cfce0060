from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from skreg.evaluation import RunResults, StoredResult, stored_attack
from skreg.figures import accuracy_curves, draw
from skreg.figures.lines import COLOURS, DASHES
from skreg.training import Run, RunError, TrainConfig


def a_run(variant: str) -> Run:
    return Run(Path("runs") / variant, TrainConfig(data="four-shapes", variant=variant).resolved(), {})


def results(distances: dict[str, list[float]], images: list[int] | None = None) -> RunResults:
    """The same distances in each norm."""
    stored = {}
    for attack, values in distances.items():
        column = torch.tensor(values, dtype=torch.float64)
        stored[attack] = StoredResult(column.isfinite(), column, column, column)
    keys = {a: torch.tensor(images or list(range(len(v)))) for a, v in distances.items()}
    return RunResults(keys, stored)


RUNS = {"V": a_run("V"), "VR": a_run("VR"), "AH": a_run("AH")}
FOUND = {
    "V": results({"fgsm": [0.0, 0.1, 0.2, 0.2], "cw": [0.0, 0.3, 0.3, 0.1]}),
    "VR": results({"fgsm": [0.3, 0.0, torch.inf, 0.1], "cw": [0.1, 0.0, 0.2, 0.4]}),
    "AH": results({"fgsm": [0.2, 0.2, 0.5, 0.4]}),
}


def texts(panel) -> str:
    return "\n".join(text.get_text() for text in panel.texts)


def test_lines_are_the_distances_of_the_store():
    figure = accuracy_curves(RUNS, FOUND, "l2")
    assert [axes.get_title() for axes in figure.axes] == ["FGSM", "C&W"]
    for panel, attack, names in zip(figure.axes, ("fgsm", "cw"), (list(RUNS), ["V", "VR"]), strict=True):
        assert len(panel.lines) == len(names)
        for line, name in zip(panel.lines, names, strict=True):
            distances = FOUND[name].results[attack].l2.numpy()
            eps, accuracy = line.get_data()
            assert line.get_drawstyle() == "steps-post"
            np.testing.assert_array_equal(np.unique([0, *distances[np.isfinite(distances)]]), eps[:-1])
            np.testing.assert_array_equal(accuracy, [(distances > bound).mean() for bound in eps])


def test_bands_are_the_95_percent_intervals():
    (panel,) = accuracy_curves({"V": RUNS["V"]}, {"V": results({"fgsm": [0.1] * 5 + [0.2] * 5})}, "l2").axes
    (band,) = panel.collections
    heights = band.get_paths()[0].vertices[:, 1]
    # Wilson's interval of 5 of 10 images.
    assert np.isclose(heights, 0.2366, atol=1e-4).any()
    assert np.isclose(heights, 0.7634, atol=1e-4).any()


def test_one_colour_a_loss_and_dashes_by_the_penalty():
    figure = accuracy_curves(RUNS, FOUND, "linf")
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert looks == [(COLOURS["V"], "--"), (COLOURS["V"], "-"), (COLOURS["A"], ":")]
    assert len(set(COLOURS.values())) == 4
    assert DASHES == {"": "--", "R": "-", "H": ":"}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(RUNS)
    looks_of_legend = [(line.get_color(), line.get_linestyle()) for line in legend.get_lines()]
    assert looks_of_legend == looks


def test_each_panel_says_what_failed_and_how_many_images_it_has():
    fgsm, cw = accuracy_curves(RUNS, FOUND, "l2").axes
    assert texts(fgsm) == "4 images\nfailed searches: VR\xa033.3%"  # of the three that were searched
    assert texts(cw) == "4 images\nno search failed\nnot attacked: AH"
    assert fgsm.get_ylim()[1] == cw.get_ylim()[1] > 1.2  # room for the words above 1


def test_the_panel_ends_where_nearly_all_adversarials_are_found():
    distances = [*np.linspace(0.01, 0.5, 199), 40.0, torch.inf]
    (panel,) = accuracy_curves({"V": RUNS["V"]}, {"V": results({"fgsm": distances})}, "l2").axes
    assert panel.get_xlim() == (0, pytest.approx(1.05 * np.quantile(distances[:-1], 0.98)))
    (panel,) = accuracy_curves({"V": RUNS["V"]}, {"V": results({"fgsm": [0.0, torch.inf]})}, "l2").axes
    assert panel.get_xlim() == (0, pytest.approx(1.05))


def test_runs_with_more_results_are_cut_to_the_common_images():
    found = {"V": results({"fgsm": [0.1, 0.2, 0.0]}), "VR": results({"fgsm": [0.1, torch.inf]})}
    runs = {name: RUNS[name] for name in found}
    (panel,) = accuracy_curves(runs, found, "l0").axes
    assert texts(panel).startswith("2 images")
    np.testing.assert_array_equal(panel.lines[0].get_data()[1], [1, 0.5, 0, 0])


def test_several_runs_of_a_variant_share_a_line_of_the_legend():
    runs = {"a": a_run("VR"), "b": a_run("VR"), "c": a_run("V")}
    found = {"a": results({"fgsm": [torch.inf, 1.0]}), "b": results({"fgsm": [1.0, 1.0]}), "c": FOUND["V"]}
    found["c"] = results({"fgsm": [0.2, 0.2]})
    figure = accuracy_curves(runs, found, "l2")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["VR (2 runs)", "V"]
    assert "VR\xa025.0%" in texts(figure.axes[0])


def test_what_cannot_be_drawn_is_an_error():
    with pytest.raises(ValueError, match="runs: expected at least one"):
        accuracy_curves({}, {}, "l2")
    with pytest.raises(ValueError, match="norm must be one of"):
        accuracy_curves(RUNS, FOUND, "l1")
    other = {**FOUND, "VR": results({"fgsm": [0.1, 0.2, 0.3, 0.4]}, images=[9, 8, 7, 6])}
    with pytest.raises(RunError, match=r"runs/VR and runs/V were attacked by fgsm on different images"):
        accuracy_curves(RUNS, other, "l2")


def test_drawings_of_evaluated_runs(make_run):
    runs = [make_run("V"), make_run("VR")]
    with pytest.raises(RunError, match=r"V has no distances of adversarials .* run `skreg evaluate"):
        list(draw(runs, only=["curves"]))
    images, labels = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2])
    for run in runs:
        (run.path / "evaluation").mkdir()
        file = run.path / "evaluation" / "paper-fgsm.safetensors"
        stored_attack(file, run.load_model(), images, labels, "fgsm")
    drawings = list(draw(runs, only=["curves"]))
    assert [each.name for each in drawings] == ["curves-l0", "curves-l2", "curves-linf"]
    for drawing in drawings:
        assert "95% intervals" in drawing.caption
        assert "failed search counts as right" in drawing.caption
        assert "V" in drawing.alt
        assert drawing.figure.axes[0].get_xlabel() == f"{drawing.name.removeprefix('curves-')} bound"
    marks = [line for line in drawings[2].figure.axes[0].lines if list(line.get_xdata()) == [0.1, 0.1]]
    assert len(marks) == 1
    assert "eps 0.1" in drawings[2].caption


def test_panels_are_spread_over_even_rows():
    attacks = ("fgsm", "pgd", "deepfool_l2", "deepfool_linf", "adef")
    figure = accuracy_curves({"V": RUNS["V"]}, {"V": results({attack: [0.1, 0.2] for attack in attacks})}, "l2")
    assert {axes.get_gridspec().ncols for axes in figure.axes} == {3}
