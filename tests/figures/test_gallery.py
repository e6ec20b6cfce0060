from __future__ import annotations

import os
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from skreg import cli
from skreg.figures import FIGURES, Drawing, draw
from skreg.figures import activation as activation_module
from skreg.figures import deceptive as deceptive_module
from skreg.figures import fourier as fourier_module
from skreg.figures import targeted as targeted_module
from skreg.figures.gallery import OF_EVALUATIONS
from skreg.training import RunError


@pytest.fixture
def short(monkeypatch):
    """Steps and images that take no time."""
    monkeypatch.setattr(
        activation_module, "SETTINGS", dict.fromkeys(("paper", "fast"), activation_module.Setting(2, 0.1))
    )
    monkeypatch.setattr(deceptive_module, "QUICK_CANDIDATES", 1)
    monkeypatch.setattr(fourier_module, "QUICK_IMAGES", 2)
    monkeypatch.setattr(targeted_module, "QUICK", targeted_module.Effort(steps=2, bisections=1, cw_steps=2))


def test_every_figure_of_two_runs(make_run, short, tmp_path):
    runs = [make_run("VR"), make_run("V")]
    steps: list[str] = []
    only = [name for name in FIGURES if name not in OF_EVALUATIONS]
    drawings = list(draw(runs, only=only, quick=True, numbers=tmp_path / "numbers", progress=steps.append))
    names = [drawing.name for drawing in drawings]
    pages = {name: [f"{name}-V", f"{name}-VR"] if name.startswith("targeted") else [name] for name in only}
    pages["training"] = ["training", "training-roughness", "training-norm"]
    assert names == [page for each in pages.values() for page in each]
    assert all(isinstance(drawing, Drawing) for drawing in drawings)
    for drawing in drawings:
        assert len(drawing.caption) > 100
        assert 40 < len(drawing.alt) < 300
        assert drawing.title[0].isupper()
        assert drawing.caption.rstrip().endswith(".")
        boxes = [axes.get_position() for axes in drawing.figure.axes]
        assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    assert set(only) <= set(steps)


def test_what_is_drawn_again_is_the_same_and_not_computed_again(make_run, short, tmp_path, monkeypatch):
    runs, folder = [make_run("VR")], tmp_path / "numbers"
    only = ["deceptive-fgsm", "activation-fast", "targeted-pgd"]
    drawings = list(draw(runs, only=only, quick=True, numbers=folder))
    assert len(os.listdir(folder)) == 3
    for module, function in (
        (deceptive_module, "deceive"),
        (activation_module, "maximize_activation"),
        (targeted_module, "targeted_attack"),
    ):
        monkeypatch.delattr(module, function)
    again = list(draw(runs, only=only, quick=True, numbers=folder))
    for one, two in zip(drawings, again, strict=True):
        assert one.caption == two.caption
        for a, b in zip(one.figure.axes, two.figure.axes, strict=True):
            for left, right in zip(a.images, b.images, strict=True):
                np.testing.assert_array_equal(np.asarray(left.get_array()), np.asarray(right.get_array()))


def test_groups_of_figures(make_run, monkeypatch):
    for name in FIGURES:
        monkeypatch.setitem(FIGURES, name, lambda lineup, name=name: [name])
    run = make_run("V")
    default = list(draw([run]))
    slow = ("fourier", "activation-paper", "targeted-fgsm", "targeted-cw")
    assert default == [name for name in FIGURES if name not in (*slow, "curves")]
    assert list(draw([run], quick=True)) == list(draw([run], only=["default"])) == default
    assert list(draw([run], only=["targeted-cw", "default"])) == [*default, "targeted-cw"]
    assert list(draw([run], only=["all"])) == [name for name in FIGURES if name != "curves"]
    assert list(draw([run], only=["curves"])) == ["curves"]  # which will say that the run was not evaluated
    (run.path / "evaluation").mkdir()
    (run.path / "evaluation" / "paper-fgsm.safetensors").touch()
    assert "curves" in list(draw([run]))
    assert list(draw([run], only=["all"])) == list(FIGURES)
    assert "curves" not in list(draw([run, make_run("VR")]))  # which was not evaluated


def test_a_figure_is_computed_when_it_is_asked_for(make_run, monkeypatch):
    asked = []
    for name in FIGURES:
        monkeypatch.setitem(FIGURES, name, lambda lineup, name=name: asked.append(name) or [name])
    drawings = draw([make_run("V")])
    assert asked == []
    next(drawings)
    assert asked == ["kernels"]


def test_kernels_are_those_of_the_runs_in_the_papers_order(make_run):
    runs = [make_run("VR"), make_run("V")]
    (drawing,) = draw(runs, only=["kernels"])
    for column, run in enumerate(reversed(runs)):
        weight = run.load_model().conv1.weight.detach()
        for index in range(4):
            shown = np.asarray(drawing.figure.axes[4 * column + index].images[0].get_array())
            np.testing.assert_array_equal(shown, weight[index, 0])


def test_the_seed_chooses_the_noise(make_run, short):
    run = make_run("V")
    noise = []
    for seed in (0, 0, 1):
        (drawing,) = draw([run], only=["activation-fast"], seed=seed)
        noise.append(np.asarray(drawing.figure.axes[0].images[0].get_array()))
        assert f"seed {seed}" in drawing.caption
    assert (noise[0] == noise[1]).all()
    assert (noise[0] != noise[2]).any()


def test_mistakes_are_found_before_anything_is_drawn(make_run):
    run = make_run("V")
    with pytest.raises(ValueError, match=r"only: expected names among kernels, .*, found 'kernel'"):
        draw([run], only=["kernels", "kernel"])
    with pytest.raises(ValueError, match=r"only: expected names among kernels, .*, found none"):
        draw([run], only=[])
    with pytest.raises(TypeError, match="only: expected a collection of names, found the string 'kernels'"):
        draw([run], only="kernels")
    with pytest.raises(ValueError, match="runs: expected at least one"):
        draw([])
    with pytest.raises(ValueError, match="runs: expected one data set"):
        draw([run, make_run("VR", data="mnist")])


def test_a_run_without_weights_is_no_empty_picture(make_run):
    run = make_run("V")
    (run.path / "best.safetensors").unlink()
    with pytest.raises(RunError, match="missing"):
        list(draw([run], only=["kernels"]))


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["figures", *map(str, arguments)], env={"COLUMNS": "500", "NO_COLOR": "1"})


def test_command_writes_pictures_and_a_page_with_their_captions(make_run, short, tmp_path):
    runs = [make_run(variant).path for variant in ("V", "VR")]
    output = tmp_path / "new" / "figures"
    only = "radial,activation-fast,targeted-fgsm"
    result = invoke(*runs, "--output", output, "--only", only, "--quick", "--dpi", 50, "--device", "cpu")
    assert result.exit_code == 0, result.output
    files = ["radial.png", "activation-fast.png", "targeted-fgsm-V.png", "targeted-fgsm-VR.png"]
    assert sorted(os.listdir(output)) == sorted([*files, "figures.md", "numbers"])
    page = (output / "figures.md").read_text()
    assert all(f"]({file})" in page for file in files)
    assert all((output / file).read_bytes().startswith(b"\x89PNG") for file in files)
    estimate, *written = result.stderr.splitlines()
    assert re.fullmatch(rf"about \d+ s to compute: mostly .*, less what {output}/numbers keeps", estimate)
    assert written == [str(output / file) for file in files]


def test_command_in_other_formats(make_run, tmp_path):
    run = make_run("V").path
    for kind, beginning in (("pdf", b"%PDF"), ("svg", b"<?xml")):
        assert invoke(run, "-o", tmp_path / "out", "--only", "radial", "--format", kind).exit_code == 0
        assert (tmp_path / "out" / f"radial.{kind}").read_bytes().startswith(beginning)


def test_mistakes_on_the_command_line(make_run, tmp_path):
    run, output = make_run("V").path, tmp_path / "out"
    result = invoke(run, "--output", output, "--only", "spectre")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "only: expected names among kernels" in result.stderr
    result = invoke(run, "--output", output, "--format", "gif")
    assert result.exit_code == 2
    assert "--format: expected one of png, pdf, svg, found 'gif'" in result.stderr
    assert invoke(run, "--output", output, "--dpi", 0).exit_code == 2
    result = invoke(tmp_path / "nothing", "--output", output)
    assert result.exit_code == 1
    assert "nothing: no run here" in result.stderr
    assert not output.exists()


def test_global_state_is_left_alone(make_run, short):
    import matplotlib.pyplot as plt

    before, figures = torch.get_rng_state(), plt.get_fignums()
    list(draw([make_run("V")], only=["activation-fast", "deceptive-fgsm"], quick=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert plt.get_fignums() == figures
