"""The paper's grid for gamma and lambda, chosen by what a validation split of the training set says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from skreg.reproduction.recipes import Recipe
from skreg.training import Run

TUNED_OPTIONS = ("gamma", "strength", "reduction")
GAMMAS = (0.1, 1.0, 10.0)
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
# The paper does not say over which reduction lambda is meant. Over the sum of a layer's kernels its larger values
# leave nothing of the data loss; over their mean all of them can be trained.
REDUCTION = "mean"

CRITERION = (
    "highest validation accuracy under PGD at eps, in the epoch that training keeps; then the highest clean validation "
    "accuracy; then the smallest value"
)

_TrainOne = Callable[[Recipe, str, str], Run]  # recipe, variant, name of the run


def tune(recipe: Recipe, losses: Sequence[str], train_one: _TrainOne) -> tuple[Recipe, dict[str, Any]]:
    """Choose gamma (T, L) and then, with it, the strength of R, one loss after the other.

    Gamma is chosen without the penalty. H takes the strength of R, as in the paper (section 4.1: 100 and -100).

    Args:
        recipe: everything else; its reduction becomes `REDUCTION`.
        losses: letters among V, T, A and L.
        train_one: trains a variant as a recipe says into a run of a name; returns at once where it is there already.

    Returns:
        The recipe with what was chosen, and a record of all candidates with their numbers, for JSON.
    """
    recipe = recipe.with_training({"reduction": REDUCTION})
    candidates: list[dict[str, Any]] = []
    chosen: dict[str, dict[str, float]] = {}
    for loss in losses:
        own: dict[str, float] = {}
        if loss in ("T", "L"):
            own["gamma"] = _choose(recipe, loss, own, "gamma", GAMMAS, train_one, candidates)
        own["strength"] = _choose(recipe, loss + "R", own, "strength", STRENGTHS, train_one, candidates)
        for variant in (loss, loss + "R", loss + "H"):
            chosen[variant] = dict(own)
    record = {"reduction": REDUCTION, "criterion": CRITERION, "chosen": chosen, "candidates": candidates}
    return recipe.with_variants(chosen), record


def _choose(
    recipe: Recipe,
    variant: str,
    fixed: dict[str, float],
    name: str,
    values: Sequence[float],
    train_one: _TrainOne,
    candidates: list[dict[str, Any]],
) -> float:
    found = []
    for value in values:
        options = {**fixed, name: value}
        label = "-".join([variant, *(f"{option}{number:g}" for option, number in options.items())])
        best = _best_record(train_one(recipe.with_variants({variant: options}), variant, label))
        found.append((best["validation_pgd_accuracy"], best["validation_accuracy"], -value))
        candidates.append(
            {
                "run": label,
                "variant": variant,
                **options,
                "epoch": best["epoch"],
                "validation_accuracy": best["validation_accuracy"],
                "validation_pgd_accuracy": best["validation_pgd_accuracy"],
            }
        )
    return -max(found)[2]


def _best_record(run: Run) -> dict[str, Any]:
    return max(run.log, key=lambda record: float(record["score"]))  # the first of equals, as in training
