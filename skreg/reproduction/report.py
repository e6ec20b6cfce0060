"""The report folder: tables for people and programs, the mean over seeds, the page with all figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from skreg.evaluation import Evaluation, Proportion, Table, write_results
from skreg.report import build_report
from skreg.report import write_report as write_page
from skreg.reproduction.recipes import Recipe
from skreg.training import Run
from skreg.training.checkpoint import write_file


def write_report(
    folder: Path,
    recipe: Recipe,
    runs: Mapping[str, Run],
    evaluations: Sequence[Evaluation],
    told: Callable[[str], None] = lambda step: None,
) -> None:
    """Write the results, tables, seeds.md where there are several seeds; page, PDF and pictures of the first seed.

    Raises:
        RunError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("results.json", "tables.md", "tables.csv"):
        write_results(folder / name, evaluations)
    seeds = folder / "seeds.md"
    if any(run.config.seed for run in runs.values()):
        write_file(seeds, seeds_markdown(runs, evaluations).encode())
    else:
        seeds.unlink(missing_ok=True)  # of another call, for other runs
    told("figures")
    first = [run for run in runs.values() if run.config.seed == 0]
    page = build_report(first, only=recipe.figures, numbers=folder / "numbers", progress=told)
    write_page(page, folder, "all")


def seeds_table(runs: Mapping[str, Run], evaluations: Sequence[Evaluation]) -> Table:
    """Mean and standard deviation over the seeds of each variant, in percent."""
    rows = []
    by_variant: dict[str, list[Evaluation]] = {}
    for run, evaluation in zip(runs.values(), evaluations, strict=True):
        by_variant.setdefault(run.config.variant, []).append(evaluation)
    for variant, group in by_variant.items():
        columns = [[each.clean for each in group]]
        columns += [[each.attacks[index].accuracy for each in group] for index in range(len(group[0].attacks))]
        at_eps = [each.pgd_at_eps for each in group]
        means = [_mean_and_deviation(column) for column in columns]
        # The seeds of a variant share its eps; the variants of a recipe need not.
        rows.append((variant, str(len(group)), *means, f"{group[0].eps:g}", _mean_and_deviation(at_eps)))
    first = evaluations[0]
    header = ("model", "seeds", "clean", *(summary.attack for summary in first.attacks), "eps", "PGD at eps")
    note = "Percent: mean, and the standard deviation between seeds (not the interval of one mean)."
    return Table(f"Accuracy over seeds, {first.data}", header, tuple(rows), note)


def seeds_markdown(runs: Mapping[str, Run], evaluations: Sequence[Evaluation]) -> str:
    """`seeds_table` in Markdown."""
    table = seeds_table(runs, evaluations)
    lines = [f"| {' | '.join(cells)} |" for cells in (table.columns, *table.rows)]
    lines.insert(1, "|:---" + "|---:" * (len(table.columns) - 1) + "|")
    return "\n".join([f"### {table.title}", "", *lines, "", table.note, ""])


def _mean_and_deviation(shares: Sequence[Proportion]) -> str:
    values = [100 * share.value for share in shares]
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.1f}" + ("" if math.isnan(deviation) else f" ± {deviation:.1f}")
