from __future__ import annotations

import pytest

from skreg.data import DATASETS
from skreg.evaluation import ATTACKS
from skreg.reproduction import PAPER_VARIANTS, QUICK_RECIPES, RECIPES, Recipe
from skreg.training import VARIANTS


@pytest.mark.parametrize("recipes", [RECIPES, QUICK_RECIPES])
def test_every_data_set_has_a_recipe_of_the_papers_eps(recipes):
    assert list(recipes) == list(DATASETS)
    for data, recipe in recipes.items():
        assert recipe.data == data
        for variant in VARIANTS:
            config = recipe.config(variant, seed=3)
            assert (config.variant, config.seed, config.eps) == (variant, 3, DATASETS[data].eps)


def test_the_paper_has_no_rough_variants():
    assert set(PAPER_VARIANTS) == {variant for variant in VARIANTS if "H" not in variant}
    assert RECIPES["fashion-mnist"].attacks == ATTACKS


def test_what_a_variant_has_of_its_own_comes_first_and_set_comes_before_all():
    recipe = Recipe(data="mnist", training={"gamma": 1.0, "epochs": 3}, variants={"T": {"gamma": 10.0}})
    assert recipe.config("T").gamma == 10.0
    assert recipe.config("L").gamma == 1.0
    assert recipe.with_training({"gamma": 2.0}).config("T").gamma == 2.0
    assert recipe.with_variants({"L": {"gamma": 0.1}}).config("L").gamma == 0.1
    assert recipe.with_variants({"L": {"gamma": 0.1}}).config("T").gamma == 10.0


def test_wrong_recipes_are_named():
    with pytest.raises(ValueError, match="unknown option 'epoch'; did you mean 'epochs'"):
        Recipe(data="mnist", training={"epoch": 3})
    with pytest.raises(ValueError, match="seed belongs to the run"):
        Recipe(data="mnist", training={"seed": 3})
    with pytest.raises(ValueError, match="gamma: expected a finite number"):
        Recipe(data="mnist", training={}, variants={"T": {"gamma": -1.0}})
    with pytest.raises(ValueError, match="recipe, T: configuration: unknown option 'strenght'; did you mean"):
        Recipe(data="mnist", training={}, variants={"T": {"strenght": 1.0}})
    with pytest.raises(ValueError, match=r"recipe: variant must be one of 'V', 'VR'.*found 'X'"):
        Recipe(data="mnist", training={}, variants={"X": {"strength": 1.0}})
