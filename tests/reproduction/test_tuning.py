from __future__ import annotations

from pathlib import Path

from skreg.reproduction import GAMMAS, STRENGTHS, Recipe, tune
from skreg.training import Run

RECIPE = Recipe(data="four-shapes", training={"epochs": 1})


def test_gamma_then_strength_are_chosen_by_validation_and_recorded():
    trained = []

    def train_one(recipe, variant, name):
        config = recipe.config(variant)
        trained.append((variant, config.gamma, config.strength, config.reduction))
        # Gamma 10 and strength 1 are the best; of strengths 0.01 and 1, which are as good, 0.01 is clean at .8.
        pgd = {0.1: 0.1, 1.0: 0.2, 10.0: 0.3}[config.gamma] if variant == "T" else 0.5 - 0.1 * (config.strength > 1)
        clean = 0.9 if config.strength == 1.0 else 0.8
        records = [
            {"epoch": 1, "score": 0.1, "validation_accuracy": 1.0, "validation_pgd_accuracy": 1.0},
            {"epoch": 2, "score": 0.2, "validation_accuracy": clean, "validation_pgd_accuracy": pgd},
        ]
        return Run(Path(name), config, {}, records)

    recipe, record = tune(RECIPE, ["T", "V"], train_one)
    assert record["chosen"]["TR"] == record["chosen"]["TH"] == {"gamma": 10.0, "strength": 1.0}
    assert record["chosen"]["VR"] == {"strength": 1.0}
    assert recipe.config("TR").gamma == 10.0
    assert recipe.config("VH").signed_strength == -1.0
    assert {reduction for *_, reduction in trained} == {record["reduction"]} == {"mean"}
    assert [gamma for variant, gamma, _, _ in trained if variant == "T"] == list(GAMMAS)
    # The strength is searched with the gamma that was chosen.
    assert [(g, s) for variant, g, s, _ in trained if variant == "TR"] == [(10.0, s) for s in STRENGTHS]
    assert len(record["candidates"]) == 3 + 5 + 5
    assert all(candidate["epoch"] == 2 for candidate in record["candidates"])


def test_of_equals_the_smallest_is_taken():
    def train_one(recipe, variant, name):
        record = {"epoch": 1, "score": 0.2, "validation_accuracy": 0.5, "validation_pgd_accuracy": 0.5}
        return Run(Path(name), recipe.config(variant), {}, [record])

    assert tune(RECIPE, ["L"], train_one)[1]["chosen"]["LR"] == {"gamma": 0.1, "strength": 0.01}
