"""Evaluations as tables: on a terminal and in Markdown."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from skreg.evaluation import Evaluation, Proportion, build_tables, list_warnings, print_report, to_markdown

from .conftest import GRADIENT_ATTACKS


def changed(evaluation: Evaluation, **changes: object) -> Evaluation:
    return dataclasses.replace(evaluation, **changes)


def test_table_1_is_the_papers(evaluation):
    other = changed(evaluation, name="VR", clean=Proportion(12, 12))
    table = build_tables([evaluation, other])[0]
    assert table.title == "Table 1: accuracy under attack, toys, at any distance"
    assert table.columns == (
        "model", "images", "clean", "FGSM", "PGD", "DF l2", "DF linf", "failed searches"
    )  # fmt: skip
    assert [row[:3] for row in table.rows] == [("V", "12", "83.3\n55–95"), ("VR", "12", "100.0\n76–100")]
    assert [row[-1] for row in table.rows] == ["0 of 40", "0 of 40"]
    assert "within linf 0.1" in build_tables([changed(evaluation, bound=0.1)])[0].title


def test_the_papers_numbers_stand_beside_ours(evaluation):
    def tables(**changes):
        return [t for t in build_tables([changed(evaluation, **changes)]) if t.title.startswith("Beside")]

    # By what was trained, whatever the folder is called.
    assert tables(variant="V") == tables(data="fashion-mnist", name="V") == tables(data="mnist", variant="VH") == []
    assert tables(data="mnist", variant="VR", preset="foolbox3") == []
    (table,) = tables(data="fashion-mnist", name="fmnist-vr", variant="VR")
    assert table.columns == ("model", "images", "clean", "FGSM", "PGD", "DF l2", "DF linf")
    assert table.rows[0][:3] == ("fmnist-vr\nVR", "12", "83.3\n55–95\npaper 88.5")
    cells = [cell.split("\n") for cell in table.rows[0][2:]]
    assert [cell[-1] for cell in cells] == ["paper 88.5", "paper 0.9", "paper 7.5", "paper 75.8", "paper 63.5"]
    assert [cell[0] for cell in cells] == [
        f"{100 * share.value:.1f}" for share in (evaluation.clean, *(s.accuracy for s in evaluation.attacks))
    ]
    assert tables(data="mnist", name="VR", variant="VR")[0].rows[0][0] == "VR"


def test_attacks_at_one_eps_are_not_called_searches(evaluation):
    missed = tuple(dataclasses.replace(s, failed=3) if s.attack == "fgsm" else s for s in evaluation.attacks)
    today = changed(evaluation, preset="foolbox3", attacks=missed)
    table_1, _, searches, *_ = build_tables([today])
    assert table_1.columns[3:] == ("FGSM, eps 0.02", "PGD, eps 0.02", "DF l2", "DF linf", "failed searches")
    assert "preset foolbox3; FGSM and PGD at eps 0.02. Right are" in table_1.note
    assert table_1.rows[0][-1] == "0 of 20"
    assert [row[1] for row in searches.rows] == ["DF l2", "DF linf"]

    table_1, *_ = build_tables([changed(today, attacks=missed[1:3])])  # PGD and DeepFool
    assert "preset foolbox3; PGD at eps 0.02. Right" in table_1.note
    table_1, *_ = build_tables([changed(today, attacks=missed[2:])])  # DeepFool alone
    assert "eps" not in table_1.note

    tables = build_tables([changed(today, attacks=missed[:2])])  # nothing searches
    assert tables[0].title == "Table 1: accuracy under attack, toys"
    assert tables[0].note == "Percent with 95% intervals; preset foolbox3; FGSM and PGD at eps 0.02."
    assert tables[0].rows[0][-1] == "–"
    assert not [table for table in tables if table.title.startswith("Searches")]


def test_the_best_of_a_column_is_marked_unless_a_guess_is_as_good(evaluation):
    def model(name, clean, fgsm):
        (summary,) = evaluation.attacks[:1]
        attacks = (dataclasses.replace(summary, accuracy=Proportion(fgsm, 12)),)
        return changed(evaluation, name=name, clean=Proportion(clean, 12), attacks=attacks)

    models = [model("V", 10, 5), model("VR", 10, 7), model("A", 9, 7)]
    assert build_tables(models)[0].best == {(0, 2), (1, 2), (1, 3), (2, 3)}
    assert build_tables([model("V", 10, 6), model("VR", 9, 5)])[0].best == {(0, 2)}  # 6 of 12 is a guess
    assert build_tables(models[:1])[0].best == frozenset()
    assert build_tables([models[0], models[0]])[0].best == frozenset()  # equal
    text = to_markdown(models)
    assert "| VR | 12 | **83.3**<br>55–95 | **58.3**<br>" in text


def test_table_within_eps(evaluation):
    _, table, *_ = build_tables([evaluation])
    assert table.title == "Accuracy within linf 0.02, toys"
    assert table.columns[3:] == ("FGSM", "PGD cross-entropy", "PGD margin", "random search", "worst case")
    assert "AutoAttack was not run: add --attacks autoattack" in table.note
    mixed = [evaluation, changed(evaluation, autoattack_at_eps=Proportion(1, 12))]
    _, table, *_ = build_tables(mixed)
    assert table.columns[-2:] == ("AutoAttack", "worst case")
    assert [row[-2] for row in table.rows] == ["–", "8.3\n1–35"]


def test_other_tables(evaluation):
    other = changed(evaluation, name="VR")
    *_, searches, landscape, kernels = build_tables([evaluation, other])
    assert len(searches.rows) == 2 * len(GRADIENT_ATTACKS)
    assert searches.rows[0][:5] == ("V", "FGSM", "linf", "10", "0")
    assert searches.columns[5:] == ("median l0", "median l2", "median linf")
    assert [row[0] for row in landscape.rows] == ["V", "VR"]
    assert [row[:2] for row in kernels.rows] == [("V", "0.weight"), ("VR", "0.weight")]
    assert all(len(row) == len(table.columns) for table in build_tables([evaluation]) for row in table.rows)


def test_data_sets_have_tables_of_their_own(evaluation):
    other = changed(evaluation, data="others", eps=0.3, bound=0.1)
    assert [table.title for table in build_tables([evaluation, other])[:4]] == [
        "Table 1: accuracy under attack, toys, at any distance",
        "Accuracy within linf 0.02, toys",
        "Table 1: accuracy under attack, others, within linf 0.1",
        "Accuracy within linf 0.3, others",
    ]


def test_runs_of_several_eps_share_what_does_not_depend_on_it(evaluation):
    fashion = changed(evaluation, data="fashion-mnist", variant="V")
    other = changed(fashion, name="VR", variant="VR", eps=0.3, clean=Proportion(12, 12))
    tables = build_tables([fashion, other])
    assert [table.title for table in tables[:4]] == [
        "Table 1: accuracy under attack, fashion-mnist, at any distance",
        "Beside the paper's Table 1, fashion-mnist",
        "Accuracy within linf 0.02, fashion-mnist",
        "Accuracy within linf 0.3, fashion-mnist",
    ]
    assert [len(table.rows) for table in tables[:4]] == [2, 2, 1, 1]
    assert (1, 2) in tables[0].best
    today = build_tables([changed(each, preset="foolbox3") for each in (fashion, other)])
    assert [len(table.rows) for table in today[:4]] == [1, 1, 1, 1]
    assert [table.columns[3] for table in today[:3:2]] == ["FGSM, eps 0.02", "FGSM, eps 0.3"]


def test_without_searches_there_is_no_table_1(evaluation):
    tables = build_tables([changed(evaluation, attacks=())])
    assert [table.title.split(",")[0] for table in tables] == [
        "Accuracy within linf 0.02", "Can the attacks be believed?", "Kernels"
    ]  # fmt: skip


def test_a_table_says_what_it_fails(evaluation):
    summary = dataclasses.replace(evaluation.attacks[0], failed=3)
    bad = changed(evaluation, attacks=(summary,), pgd_at_one=Proportion(3, 12), zero_gradients=Proportion(1, 12))
    table_1, at_eps, _, landscape, _ = build_tables([bad])
    assert "V: searches that found no adversarial at any distance, of 10 each: fgsm 3." in table_1.warnings[0]
    assert at_eps.warnings == (list_warnings([bad])[-1],)
    assert "exactly zero at 1 of 12" in landscape.warnings[0]
    assert sorted(w for table in build_tables([bad]) for w in table.warnings) == sorted(list_warnings([bad]))
    text = to_markdown([bad])
    assert text.index("- warning: V: searches that found") < text.index("### Accuracy within")
    assert "All checks" not in text


def test_table_errors(evaluation):
    with pytest.raises(ValueError, match="at least one evaluation"):
        build_tables([])
    with pytest.raises(ValueError, match="same attacks"):
        build_tables([evaluation, changed(evaluation, attacks=evaluation.attacks[:1])])


def test_markdown_is_made_of_tables(evaluation):
    text = to_markdown([changed(evaluation, name="a|b")])
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines[:3]}) == 1
    assert "| ab | 12 | 83.3<br>55–95 |" in lines[2]
    assert "**" not in text  # one model alone is not the best
    assert "All checks of the attacks passed." in text
    warned = changed(evaluation, pgd_at_one=Proportion(3, 12))
    assert "- warning: V: PGD at eps 1 leaves 3" in to_markdown([warned])
    assert list_warnings([evaluation, warned])[0].startswith("V: PGD at eps 1")


def test_report_on_a_terminal(evaluation):
    console = Console(width=200, record=True, file=io.StringIO())
    other = changed(evaluation, name="[red]", clean=Proportion(12, 12), pgd_at_one=Proportion(3, 12))
    print_report([evaluation, other], console)
    text = console.export_text()
    for word in ("Table 1", "Accuracy within linf 0.02", "83.3", "*100.0", "55–95", "median linf", "high freq. energy"):
        assert word in text
    assert "warning: [red]: PGD at eps 1 leaves 3 images right" in text
