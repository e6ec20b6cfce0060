"""The paper's experiments from data to report: recipes, tuning, training, evaluation, in stages that can be resumed."""

from skreg.reproduction.folder import is_reproduction, load_runs
from skreg.reproduction.pipeline import Options, reproduce
from skreg.reproduction.recipes import PAPER_VARIANTS, QUICK_RECIPES, RECIPES, Recipe
from skreg.reproduction.tuning import GAMMAS, STRENGTHS, TUNED_OPTIONS, tune

__all__ = [
    "GAMMAS",
    "PAPER_VARIANTS",
    "QUICK_RECIPES",
    "RECIPES",
    "STRENGTHS",
    "TUNED_OPTIONS",
    "Options",
    "Recipe",
    "is_reproduction",
    "load_runs",
    "reproduce",
    "tune",
]
