from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from skreg.evaluation import Table, evaluate_runs
from skreg.figures import Drawing
from skreg.report import Report, Section
from skreg.training import Run, TrainConfig, load_run, train

EVIL = """<b onclick="alert('x')">&amp; $title ${body} 'quoted' \\</script>"""
FEW = ["kernels", "curves", "training"]  # what costs next to nothing


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> dict[str, Run]:
    """V and VR, trained for two epochs and evaluated; "odd", a copy of VR in a folder of odd name, not evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for variant in ("V", "VR"):
        config = TrainConfig(
            data="four-shapes", variant=variant, limit=100, epochs=2, validation_attack_steps=1, device="cpu"
        )
        train(config, folder / variant)
    odd = folder / 'VR <2> & "so" on'
    shutil.copytree(folder / "VR", odd)
    evaluate_runs([folder / "V", folder / "VR"], attacks=["fgsm", "deepfool_l2"], limit=6)
    torch.set_num_threads(threads)
    return {"V": load_run(folder / "V"), "VR": load_run(folder / "VR"), "odd": load_run(odd)}


def drawing(name: str, words: str = "words") -> Drawing:
    figure = Figure(figsize=(3, 2))
    figure.add_subplot().plot([1, 2])
    return Drawing(name=name, title=words, caption=words, alt=words, figure=figure)


@pytest.fixture
def evil() -> Report:
    """A report that means mischief wherever it can."""
    table = Table(EVIL, (EVIL, "number"), ((EVIL, f"1.0\n{EVIL}"), ("second", "2.0")), EVIL)
    section = Section(
        data=EVIL,
        tables=(table,),
        warnings=(EVIL,),
        missing=(EVIL,),
        drawings=(drawing("picture", EVIL),),
        setup=(table, table),
        commands={EVIL: EVIL},
    )
    return Report(EVIL, (section,), {EVIL: EVIL})


@pytest.fixture
def numbers() -> Report:
    """A report whose first table has infinity, missing values, intervals and percent."""
    rows = (
        ("V", "9.5\n8–11", "76.4%", "∞", "fgsm"),
        ("VR10", "10.0\n9–12", "–", "0.5", "cw"),
        ("VR9", "–", "8.0%", "1e-3", "pgd"),
        ("A", "-3.0\n1–5", "100.0%", "–", "adef"),
    )
    columns = ("model", "clean", "share", "median", "attack_name")
    best = frozenset({(1, 1)})
    table = Table("Numbers", columns, rows, "A note.", warnings=("V: a warning",), best=best)
    wide = Table("Wide", ("model", *(f"column{i}" for i in range(30))), (("V", *("123.4" for _ in range(30))),))
    section = Section(
        "toys", (table, wide), ("V: a warning",), (), (drawing("one"), drawing("two")), (), {"V": "train"}
    )
    return Report("Toys", (section,), {"date": "today"})


@pytest.fixture
def page(tmp_path) -> Path:
    return tmp_path / "report.html"
