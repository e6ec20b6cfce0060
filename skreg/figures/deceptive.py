"""The most deceptive adversarial image of each class: the paper's Figures 2, 38 and 39."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from skreg.attacks import attack_mode
from skreg.evaluation import run_attack
from skreg.evaluation.attacks import minibatches
from skreg.figures.drawing import Drawing
from skreg.figures.grid import Cell, image_grid
from skreg.figures.lineup import Lineup
from skreg.figures.numbers import digest, of_each_model
from skreg.figures.samples import first_of_each_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CANDIDATES, QUICK_CANDIDATES = 20, 4  # images of each class among which the most deceptive one is looked for
BATCH = 128

_NAMES = {"fgsm": "FGSM", "adef": "ADef"}


@dataclass(frozen=True)
class Deception:
    """What one model makes of N images after an attack on each.

    Attributes:
        adversarial: N C H W; the image itself where there is none.
        found: N, bool: the attack turned a correct prediction into a wrong one. False for a failed search, and for
            an image that was misclassified from the start and so needed none; never where `prediction` is right.
        prediction: N, int64, the class with the highest logit of `adversarial`.
        confidence: N, its softmax probability.
    """

    adversarial: Tensor
    found: Tensor
    prediction: Tensor
    confidence: Tensor


def deceive(model: nn.Module, images: Tensor, labels: Tensor, attack: str, *, seed: int = 0) -> Deception:
    """Attack each image with the paper's search for the smallest perturbation (`skreg.evaluation.run_attack`).

    Args:
        images, labels: N C H W in [0, 1], N.
        attack: a name among `skreg.evaluation.ATTACKS`.

    Raises:
        TypeError, ValueError, FloatingPointError: as `run_attack` does.
    """
    result = run_attack(model, images, labels, attack, batch_size=BATCH, seed=seed)
    with attack_mode(model, "eval"), torch.no_grad():
        logits = torch.cat([model(x) for x, _ in minibatches(result.adversarial, labels, BATCH)])
    confidence, prediction = logits.softmax(dim=1).max(dim=1)
    # At a boundary rounding decides: the search may have seen another class than this batch does.
    found = result.success & (result.linf > 0) & (prediction != labels)
    return Deception(result.adversarial, found, prediction, confidence)


def most_deceptive(deceptions: Sequence[Deception], labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The image of each class with the highest confidence in wrong classes, averaged over the models.

    A model that was not deceived by an image counts with confidence 0.

    Args:
        deceptions: of the same images, one a model.
        labels: N, their classes.

    Returns:
        Numbers of the images (`classes`, int64), the first of equals, and their mean confidence (`classes`).

    Raises:
        ValueError: no models, or a class without images.
    """
    if not deceptions:
        raise ValueError("deceptions: expected at least one model's, found none")
    mean = torch.stack([torch.where(each.found, each.confidence, 0.0) for each in deceptions]).mean(dim=0)
    best = []
    for label in range(classes):
        members = (labels == label).nonzero()[:, 0]
        if not len(members):
            raise ValueError(f"labels: expected images of every class, found none of class {label}")
        best.append(members[mean[members].argmax()])
    chosen = torch.stack(best)
    return chosen, mean[chosen]


def deceptive_grid(
    images: Tensor, chosen: Tensor, deceptions: Mapping[str, Deception], classes: Sequence[str]
) -> Figure:
    """Draw the chosen image of each class (rows): the original, then what deceives each model (columns).

    Below each image: what the model sees in it, and its confidence. Faded and crossed out: the model was not
    deceived, because the search failed or because it misclassifies the original anyway.

    Args:
        images: N C H W, the originals of all candidates.
        chosen: K, numbers of images, as `most_deceptive` returns them.
        deceptions: by model.
        classes: K names.
    """
    rows: list[list[Cell]] = []
    for index in chosen.tolist():
        cells = [Cell(images[index], framed=True)]
        for each in deceptions.values():
            seen = classes[int(each.prediction[index])]
            found = bool(each.found[index])
            wrong = int(each.prediction[index]) != len(rows)
            text = f"{seen}\n{float(each.confidence[index]):.0%}" if found else "wrong\nanyway" if wrong else "failed\n"
            cells.append(Cell(each.adversarial[index], text, failed=not found))
        rows.append(cells)
    return image_grid(rows, classes, ["original", *deceptions], apart=True)


def draw_deceptive(lineup: Lineup, attack: str) -> Iterator[Drawing]:
    """The most deceptive image of each class by one attack."""
    classes = lineup.info.classes
    count = QUICK_CANDIDATES if lineup.quick else CANDIDATES
    images, labels = first_of_each_class(*lineup.test_images(), len(classes), count)

    def compute(model: nn.Module, told: Callable[[str], None]) -> dict[str, Tensor]:
        return vars(deceive(model, images, labels, attack, seed=lineup.seed))

    facts = {
        "figure": "deceptive",
        "attack": attack,
        "seed": lineup.seed,
        "images": digest({"images": images, "labels": labels}),
    }
    deceptions = {
        name: Deception(**kept) for name, kept in of_each_model(lineup, f"deceptive-{attack}", facts, compute)
    }
    labels = labels.cpu()
    chosen, confidence = most_deceptive(list(deceptions.values()), labels, len(classes))
    figure = deceptive_grid(images.cpu(), chosen, deceptions, classes)
    missing = sum(int((~each.found[chosen]).sum()) for each in deceptions.values())
    yield Drawing(
        name=f"deceptive-{attack}",
        title=f"Most deceptive images by {_NAMES[attack]}",
        caption=f"For each class the image, among the first {count} of {lineup.info.name}'s test images of that "
        "class (in the fixed permutation of skreg.data.load), whose adversarial images are taken for another class "
        "with the highest confidence on average over the models "
        f"({min(confidence.tolist()):.0%} to {max(confidence.tolist()):.0%}). Framed: the original. Below each image, "
        f"the model's prediction and its confidence. {_NAMES[attack]} as in the paper's Table 1: the search for the "
        f"smallest perturbation (preset paper), any eps, seed {lineup.seed}. {missing} of "
        f"{len(chosen) * len(deceptions)} are faded and crossed out: the search failed, or the model misclassifies "
        "the original anyway. These count with confidence 0.",
        alt=f"A row for each of the classes {', '.join(classes)}: the original, then its adversarial image for each "
        f"of {', '.join(deceptions)}, with the wrong prediction below it.",
        figure=figure,
    )
