"""How the nets of each data set are trained and evaluated: every choice, the paper's where it states one.

The paper (section 4, appendix A) states nets, eps, and the grids for gamma and lambda. It states neither epochs,
optimizer, batch size nor the chosen gamma and lambda: those are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from skreg._checks import check_choice
from skreg.evaluation import ATTACKS
from skreg.training import VARIANTS, TrainConfig

PAPER_VARIANTS = ("V", "VR", "T", "TR", "A", "AR", "L", "LR")  # the rows of Table 1

# A recipe is shared by all variants and seeds; these belong to one run, or to the machine.
_OF_THE_RUN = ("data", "variant", "seed", "device", "data_root")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the variants of one data set are trained and evaluated.

    Attributes:
        data: name in `skreg.data.DATASETS`.
        training: options of `skreg.training.TrainConfig` that all variants share.
        variants: what a variant has on top of them, or instead.
        attacks: of the evaluation, names in `skreg.evaluation.CHOICES`.
        test_images: number of test images that are attacked.
        figures: names in `skreg.figures.FIGURES`; None for all but the slow ones that are drawn on request.

    Raises:
        ValueError, TypeError: a variant or an option of training that does not exist, has a wrong value, or belongs to
            the run.
    """

    data: str
    training: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    attacks: tuple[str, ...] = ATTACKS
    test_images: int = 1000
    figures: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for options in (self.training, *self.variants.values()):
            for name in options:
                if name in _OF_THE_RUN:
                    raise ValueError(
                        f"recipe: {name} belongs to the run, not to the recipe; it has an option of its own"
                    )
        self.config("V")
        for variant in self.variants:
            check_choice("recipe: variant", variant, VARIANTS)
            try:
                self.config(variant)
            except (TypeError, ValueError) as error:
                raise type(error)(f"recipe, {variant}: {error}") from error

    def config(self, variant: str, *, seed: int = 0, device: str = "auto", data_root: str | None = None) -> TrainConfig:
        """The configuration of one training run."""
        own = {"data": self.data, "variant": variant, "seed": seed, "device": device, "data_root": data_root}
        return TrainConfig.from_dict({**self.training, **self.variants.get(variant, {}), **own})

    def with_training(self, options: Mapping[str, Any]) -> Recipe:
        """The same recipe with `options` for all variants, whatever it said before."""
        rest = {
            variant: {name: value for name, value in own.items() if name not in options}
            for variant, own in self.variants.items()
        }
        return dataclasses.replace(self, training={**self.training, **options}, variants=rest)

    def with_variants(self, options: Mapping[str, Mapping[str, Any]]) -> Recipe:
        """The same recipe with `options` for some variants."""
        names = dict.fromkeys((*self.variants, *options))
        merged = {name: {**self.variants.get(name, {}), **options.get(name, {})} for name in names}
        return dataclasses.replace(self, variants=merged)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain values for JSON."""
        return {
            "data": self.data,
            "training": dict(self.training),
            "variants": {name: dict(own) for name, own in self.variants.items()},
            "attacks": list(self.attacks),
            "test_images": self.test_images,
        }


# What H minimises has no lower bound; a line in place of exp above an exponent of 1 keeps short trainings in hand.
# It is the same for R, so that R and H differ by the sign alone.
_PENALTY = {"normalize": "subtract", "exponentiate": "kernel", "reduction": "sum", "max_exponent": 1.0}
_SMALL_NET = {
    **_PENALTY,
    "net": "two_conv",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "batch_size": 128,
    "gamma": 1.0,
}
_SGD = {**_PENALTY, "optimizer": "sgd", "optimizer_options": {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}}

_ALL = (
    Recipe(
        data="four-shapes",
        training={
            **_SMALL_NET,
            "eps": 0.1,
            "attack_steps": 10,
            "step_size": 0.025,
            "epochs": 10,
            "batch_size": 64,
            "learning_rate": 2e-3,
            "strength": 0.01,
        },
        test_images=200,
    ),
    Recipe(
        data="mnist",
        training={**_SMALL_NET, "eps": 0.3, "attack_steps": 40, "step_size": 0.01, "epochs": 20, "strength": 1e-3},
    ),
    # gamma and strength by `--tune`, on a part of the data (docs/results/eight).
    Recipe(
        data="fashion-mnist",
        training={
            **_SMALL_NET,
            "eps": 0.1,
            "attack_steps": 10,
            "step_size": 0.025,
            "epochs": 20,
            "reduction": "mean",
            "strength": 1.0,
        },
        variants={
            loss + sign: {"gamma": gamma, "strength": 0.1}
            for loss, gamma in (("T", 10.0), ("L", 0.1))
            for sign in ("", "R", "H")
        },
    ),
    Recipe(
        data="cifar10",
        training={
            **_SGD,
            "net": "resnet18_cifar",
            "eps": 0.03,
            "attack_steps": 10,
            "step_size": 0.0075,
            "epochs": 60,
            "batch_size": 128,
            "learning_rate": 0.1,
            "schedule": "multistep",
            "schedule_options": {"milestones": [45, 55], "gamma": 0.1},
            "channels_last": True,
            "strength": 1e-5,
        },
    ),
    # From fresh weights; the paper goes on from pretrained ones, and leaves TRADES out.
    Recipe(
        data="restricted-imagenet",
        training={
            **_SGD,
            "net": "resnet50_restricted_imagenet",
            "eps": 0.005,
            "attack_steps": 7,
            "step_size": 0.00125,
            "epochs": 60,
            "batch_size": 128,
            "learning_rate": 0.1,
            "schedule": "multistep",
            "schedule_options": {"milestones": [30, 50], "gamma": 0.1},
            "channels_last": True,
            "strength": 1e-6,
        },
        test_images=500,
    ),
)

RECIPES: dict[str, Recipe] = {recipe.data: recipe for recipe in _ALL}

_QUICK_TRAINING = {
    "limit": 1000,
    "epochs": 4,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "attack_steps": 5,
    "step_size": None,
    "validation_attack_images": 50,
    "validation_attack_steps": 5,
}
# C&W and salt and pepper take longer than all of the others together.
_QUICK_ATTACKS = ("fgsm", "pgd", "deepfool_l2", "deepfool_linf", "adef")


def _quick(recipe: Recipe, test_images: int = 20, **training: Any) -> Recipe:
    return dataclasses.replace(
        recipe.with_training({**_QUICK_TRAINING, **training}),
        attacks=_QUICK_ATTACKS,
        test_images=test_images,
        figures=("kernels", "radial"),
    )


_CONSTANT_ADAM: dict[str, Any] = {
    "optimizer": "adam",
    "optimizer_options": {},
    "schedule": "constant",
    "schedule_options": {},
}

# The same stages on few images. CIFAR-10 has the 2-conv net here: ResNet-18 takes minutes an epoch of these on a CPU.
# Restricted ImageNet has no smaller net, so that it wants a GPU even so.
QUICK_RECIPES: dict[str, Recipe] = {
    "four-shapes": _quick(RECIPES["four-shapes"], strength=0.1),  # so that a few steps show what the penalty does
    "mnist": _quick(RECIPES["mnist"]),
    "fashion-mnist": _quick(RECIPES["fashion-mnist"]),
    "cifar10": _quick(RECIPES["cifar10"], net="two_conv", channels_last=False, strength=1e-3, **_CONSTANT_ADAM),
    "restricted-imagenet": _quick(
        RECIPES["restricted-imagenet"], test_images=10, limit=200, epochs=1, batch_size=20, **_CONSTANT_ADAM
    ),
}
