from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import matplotlib.image
import pytest

from skreg.evaluation import Evaluation, LayerSummary, Proportion

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def evaluation(name: str, roughness: float) -> Evaluation:
    share = Proportion(1, 2)
    return Evaluation(
        name=name,
        data="four-shapes",
        classes=4,
        preset="paper",
        seed=0,
        eps=0.1,
        bound=None,
        clean=share,
        attacks=(),
        fgsm_at_eps=share,
        pgd_ce_at_eps=share,
        pgd_margin_at_eps=share,
        pgd_at_eps=share,
        random_search_at_eps=share,
        autoattack_at_eps=None,
        worst_case_at_eps=share,
        random_search_alone=Proportion(0, 2),
        pgd_at_one=share,
        zero_gradients=share,
        logit_margin=1.0,
        logit_scale=1.0,
        layers=(LayerSummary("conv1.weight", roughness, 0.5 * roughness, 1.0),),
    )


def test_findings_are_computed(demo):
    expected = {"V": 1.0, "VR": 0.5, "VH": 1.5, "A": 0.9, "AR": 0.4}
    table, findings = demo.compare_kernels([evaluation(*each) for each in expected.items()])
    assert len(findings) == 4
    assert all(finding.startswith("yes: conv1.weight") for finding in findings)
    assert "| conv1.weight | D/E | 1.000 | 0.500 | 1.500 | 0.900 | 0.400 |" in table
    _, findings = demo.compare_kernels([evaluation(*each) for each in {**expected, "VH": 0.7}.items()])
    assert [finding[:3] for finding in findings] == ["NO,", "yes", "NO,", "yes"]
    assert "VR < V < VH (not 0.500 < 1.000 < 0.700)" in findings[0]


def test_report_counts_what_holds(demo, tmp_path):
    evaluations = [evaluation(name, 1.0) for name in demo.VARIANTS]
    evaluations[1] = dataclasses.replace(evaluations[1], layers=evaluation("VR", 0.5).layers)
    evaluations[4] = dataclasses.replace(evaluations[4], layers=evaluation("AR", 0.5).layers)
    demo.write_report(tmp_path / "report.md", evaluations, seconds=1.0)
    text = (tmp_path / "report.md").read_text()
    assert "2 of 4 comparisons go that way" in text
    assert text.count("- yes: ") == text.count("- NO, it does not hold: ") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_small_demo_from_end_to_end_and_again(demo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "ATTACKS", ("deepfool_linf",))
    sizes = {"training_images": 40, "epochs": 1, "test_images": 2}
    demo.main(tmp_path / "demo", **sizes)
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith(f"report: {tmp_path / 'demo' / 'report.md'}")
    assert "accuracy under attack, four-shapes" in printed
    assert "Do roughness and high-frequency energy go as the paper says?" in printed
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert [each["name"] for each in results] == list(demo.VARIANTS)
    assert matplotlib.image.imread(tmp_path / "demo" / "kernels.png").std() > 0.1
    report = (tmp_path / "demo" / "report.md").read_text()
    assert "![Kernels, spectra and responses](kernels.png)" in report

    weights = (tmp_path / "demo" / "VR" / "best.safetensors").stat().st_mtime_ns
    demo.main(tmp_path / "demo", **sizes)
    assert (tmp_path / "demo" / "VR" / "best.safetensors").stat().st_mtime_ns == weights
    again = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert again == results
