"""Evaluations as tables for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skreg.evaluation.checks import check_at_eps, check_model, check_searches, find_warnings
from skreg.evaluation.evaluate import AttackSummary, Evaluation
from skreg.evaluation.paper import paper_accuracy
from skreg.evaluation.proportion import Proportion

# The columns of the paper's Table 1.
TITLES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "deepfool_l2": "DF l2",
    "deepfool_linf": "DF linf",
    "cw": "C&W",
    "adef": "ADef",
    "salt_pepper": "S&P",
}
PASSED = "All checks of the attacks passed."


@dataclass(frozen=True)
class Table:
    """Text in rows and columns; a cell may hold several lines. The first column holds names.

    Attributes:
        title, columns, rows: what to show.
        note: what the columns are.
        warnings: checks that the table fails, a sentence each.
        best: row and column of the cells to mark, which hold the best value of their column.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    warnings: tuple[str, ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()


def build_tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """Table 1, also beside the paper's own, one each a data set, and accuracy at each training eps; then searches,
    gradients and kernels of all.

    Raises:
        ValueError: there is nothing to show, or the evaluations ran different attacks.
    """
    if not evaluations:
        raise ValueError("expected at least one evaluation, found none")
    attacks = {(each.preset, tuple(summary.attack for summary in each.attacks)) for each in evaluations}
    if len(attacks) > 1:
        raise ValueError("one table needs the same attacks and preset for all models; evaluate them together")

    def of_table_1(each: Evaluation) -> object:
        # The searches of preset "paper" know no eps.
        return each.data, each.bound, each.eps if each.preset == "foolbox3" else None

    tables = []
    for group in _groups(evaluations, of_table_1):
        tables += [_table_1(group), *_beside_the_paper(group)] if group[0].attacks else []
        tables += [_at_eps(same) for same in _groups(group, lambda each: each.eps)]
    tables += [_searches(evaluations)] if _searching(evaluations[0]) else []
    return [*tables, _landscape(evaluations), _kernels(evaluations)]


def _groups(evaluations: Sequence[Evaluation], key: Callable[[Evaluation], object]) -> list[list[Evaluation]]:
    """Those of one key together, in the order in which the keys first come."""
    groups: dict[object, list[Evaluation]] = {}
    for each in evaluations:
        groups.setdefault(key(each), []).append(each)
    return list(groups.values())


def list_warnings(evaluations: Sequence[Evaluation]) -> list[str]:
    """The warnings of all models, each with the model's name in front."""
    return _named(evaluations, find_warnings)


def _named(evaluations: Sequence[Evaluation], check: Callable[[Evaluation], list[str]]) -> list[str]:
    return [f"{each.name}: {warning}" for each in evaluations for warning in check(each)]


def _table_1(group: Sequence[Evaluation]) -> Table:
    """Table 1 of the paper for the models of one data set."""
    first = group[0]
    at_eps = {s.attack: f"{TITLES[s.attack]}, eps {first.eps:g}" for s in first.attacks if first.is_fixed(s.attack)}
    titles = TITLES | at_eps
    reach = "at any distance" if first.bound is None else f"within linf {first.bound:g}"
    columns = ["model", "images", "clean", *(titles[s.attack] for s in first.attacks), "failed searches"]
    shares = [[each.clean, *(s.accuracy for s in each.attacks)] for each in group]
    rows = [
        (each.name, str(each.clean.total), *map(_percent, row), _failed_searches(each))
        for each, row in zip(group, shares, strict=True)
    ]
    fixed = f"; {' and '.join(TITLES[attack] for attack in at_eps)} at eps {first.eps:g}" if at_eps else ""
    title = f"Table 1: accuracy under attack, {first.data}"
    note = f"Percent with 95% intervals; preset {first.preset}{fixed}. "
    if _searching(first):
        title += f", {reach}"
        note += f"Right are images for which a search found no adversarial {reach}: "
        note += "a failed search counts as right, as in the paper. "
    return Table(
        title,
        tuple(columns),
        tuple(rows),
        f"{note}{_best_note(group)}".rstrip(),
        tuple(_named(group, check_searches)),
        _best(group, shares, first_column=2),
    )


def _searching(evaluation: Evaluation) -> list[AttackSummary]:
    """Of the attacks of Table 1 those that search for the smallest perturbation."""
    return [summary for summary in evaluation.attacks if not evaluation.is_fixed(summary.attack)]


def _failed_searches(evaluation: Evaluation) -> str:
    searching = _searching(evaluation)
    return f"{sum(s.failed for s in searching)} of {sum(s.searches for s in searching)}" if searching else "–"


def _beside_the_paper(group: Sequence[Evaluation]) -> list[Table]:
    """The paper's numbers under ours, for the models that were trained as a variant of its Table 1."""
    first = group[0]
    if first.preset != "paper":
        return []
    rows = []
    for each in group:
        if theirs := paper_accuracy(each.data, each.variant):
            ours = {"clean": each.clean} | {summary.attack: summary.accuracy for summary in each.attacks}
            cells = [f"{_percent(share)}\npaper {theirs[column]:.1f}" for column, share in ours.items()]
            name = each.name if each.name == each.variant else f"{each.name}\n{each.variant}"
            rows.append((name, str(each.clean.total), *cells))
    if not rows:
        return []
    columns = ("model", "images", "clean", *(TITLES[s.attack] for s in first.attacks))
    note = (
        "Percent; ours with 95% intervals, and the paper's number for the same variant. The paper does not say which "
        "form and strength of the penalty, which seeds and which images made it."
    )
    return [Table(f"Beside the paper's Table 1, {first.data}", columns, tuple(rows), note)]


def _at_eps(group: Sequence[Evaluation]) -> Table:
    """Accuracy within the training eps for the models of one data set."""
    first = group[0]
    with_autoattack = any(each.autoattack_at_eps is not None for each in group)
    shares = [
        [
            each.clean,
            each.fgsm_at_eps,
            each.pgd_ce_at_eps,
            each.pgd_margin_at_eps,
            each.random_search_at_eps,
            *([each.autoattack_at_eps or Proportion(0, 0)] if with_autoattack else []),
            each.worst_case_at_eps,
        ]
        for each in group
    ]
    columns = ["model", "images", "clean", "FGSM", "PGD cross-entropy", "PGD margin", "random search"]
    columns += [*(["AutoAttack"] if with_autoattack else []), "worst case"]
    rows = [(each.name, str(each.clean.total), *map(_percent, row)) for each, row in zip(group, shares, strict=True)]
    note = (
        "Percent with 95% intervals. PGD: 40 steps, with a second run on the survivors. Random search sees logits "
        f"only. Worst case: images that nothing fooled within eps, {'Table 1 included, ' if first.attacks else ''}"
        f"and the number to quote. {_best_note(group)}"
    )
    if not with_autoattack:
        note = f"{note.rstrip()} AutoAttack was not run: add --attacks autoattack."
    return Table(
        f"Accuracy within linf {first.eps:g}, {first.data}",
        tuple(columns),
        tuple(rows),
        note.rstrip(),
        tuple(_named(group, check_at_eps)),
        _best(group, shares, first_column=2),
    )


def _best(
    group: Sequence[Evaluation], shares: Sequence[Sequence[Proportion]], *, first_column: int
) -> frozenset[tuple[int, int]]:
    """The best cells of each column, as in the paper: not where a guess is as good, nor where all are equal."""
    if len(group) < 2:
        return frozenset()
    cells = set()
    for column, values in enumerate(zip(*shares, strict=True)):
        measured = [value.value for value in values if value.total]
        if not measured or min(measured) == max(measured):
            continue
        best = max(measured)
        for row, value in enumerate(values):
            if value.total and value.value == best > 1 / group[row].classes:
                cells.add((row, first_column + column))
    return frozenset(cells)


def _best_note(group: Sequence[Evaluation]) -> str:
    return "Marked: the best of a column, unless a guess is as good." if len(group) > 1 else ""


def _searches(evaluations: Sequence[Evaluation]) -> Table:
    rows = tuple(
        (
            each.name,
            TITLES[s.attack],
            s.minimises,
            str(s.searches),
            str(s.failed),
            *map(_number, (s.median_l0, s.median_l2, s.median_linf)),
        )
        for each in evaluations
        for s in _searching(each)
    )
    columns = ("model", "attack", "minimises", "searches", "failed", "median l0", "median l2", "median linf")
    note = (
        "Medians of the smallest perturbation found, in each norm; a failed search counts as infinitely far. ADef "
        "makes the field small that moves the pixels."
    )
    return Table("Searches for adversarial images", columns, rows, note)


def _landscape(evaluations: Sequence[Evaluation]) -> Table:
    rows = tuple(
        (
            each.name,
            str(each.clean.total),
            _percent(each.zero_gradients),
            _number(each.logit_margin),
            _number(each.logit_scale),
            _percent(each.pgd_at_one),
            _percent(each.random_search_alone),
        )
        for each in evaluations
    )
    columns = ("model", "images", "zero gradients", "logit margin", "logit scale", "PGD eps 1", "random search alone")
    note = (
        "Percent of images whose gradient is exactly zero; mean distance of the two highest logits and standard "
        "deviation of the logits, which make gradients vanish where they are large; accuracy under PGD with everything "
        "within reach; images that only the search without gradients fools. The first and the last two should be 0."
    )
    warnings = tuple(_named(evaluations, check_model))
    return Table("Can the attacks be believed?", columns, rows, note, warnings)


def _kernels(evaluations: Sequence[Evaluation]) -> Table:
    rows = tuple(
        (
            each.name,
            layer.name,
            f"{layer.roughness:.3f}",
            f"{100 * layer.high_frequency_share:.1f}%",
            _number(layer.norm),
        )
        for each in evaluations
        for layer in each.layers
    )
    note = "Roughness: squared differences of neighbouring weights over squared weights, smaller is smoother."
    return Table("Kernels", ("model", "layer", "D/E", "high freq. energy", "norm"), rows, note)


def _percent(share: Proportion) -> str:
    if not share.total:
        return "–"
    low, high = share.interval
    return f"{100 * share.value:.1f}\n{100 * low:.0f}–{100 * high:.0f}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.3g}"
