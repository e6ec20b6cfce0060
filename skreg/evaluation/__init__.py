"""How robust a model is: attacks by name, accuracy under attack, and the checks that make it believable."""

from skreg.evaluation.attacks import ATTACKS, PRESETS, AttackResult, run_attack
from skreg.evaluation.checks import find_warnings
from skreg.evaluation.curves import NORMS, Curve, RunResults, has_results, read_results
from skreg.evaluation.evaluate import (
    AttackSummary,
    Evaluation,
    LayerSummary,
    evaluate_model,
    summarise_kernels,
)
from skreg.evaluation.fixed_eps import ATTACKS_AT_EPS, fixed_radius_pgd
from skreg.evaluation.planned import CHOICES
from skreg.evaluation.progress import ConsoleProgress, Step
from skreg.evaluation.proportion import Proportion
from skreg.evaluation.reading import is_evaluated, read_evaluation
from skreg.evaluation.rendering import markdown_table, print_report, to_markdown
from skreg.evaluation.results import as_dict, check_results_path, write_results
from skreg.evaluation.robust import robust_accuracy
from skreg.evaluation.runs import PAPER_BOUNDS, evaluate_runs
from skreg.evaluation.store import StoredResult, stored_attack
from skreg.evaluation.table import Table, build_tables, list_warnings

__all__ = [
    "ATTACKS",
    "ATTACKS_AT_EPS",
    "CHOICES",
    "NORMS",
    "PAPER_BOUNDS",
    "PRESETS",
    "AttackResult",
    "AttackSummary",
    "ConsoleProgress",
    "Curve",
    "Evaluation",
    "LayerSummary",
    "Proportion",
    "RunResults",
    "Step",
    "StoredResult",
    "Table",
    "as_dict",
    "build_tables",
    "check_results_path",
    "evaluate_model",
    "evaluate_runs",
    "find_warnings",
    "fixed_radius_pgd",
    "has_results",
    "is_evaluated",
    "list_warnings",
    "markdown_table",
    "print_report",
    "read_evaluation",
    "read_results",
    "robust_accuracy",
    "run_attack",
    "stored_attack",
    "summarise_kernels",
    "to_markdown",
    "write_results",
]
