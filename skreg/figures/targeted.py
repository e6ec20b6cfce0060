"""Every class turned into every other: the paper's Figures 10 to 37."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from skreg._checks import check_choice, check_classes, check_labels
from skreg._extras import require
from skreg.attacks import attack_mode, fgsm, pgd
from skreg.attacks.deformation import Deformation
from skreg.evaluation.attacks import check_inputs, finite_forward
from skreg.evaluation.foolbox3 import carlini_wagner
from skreg.figures.drawing import Drawing
from skreg.figures.grid import Cell, image_grid
from skreg.figures.lineup import Lineup
from skreg.figures.numbers import digest, of_each_model
from skreg.figures.samples import first_of_each_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Those of the paper that can be given a target; DeepFool and salt and pepper have none.
TARGETED = ("pgd", "adef", "fgsm", "cw")

LADDER = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # values of eps, until one reaches the target
_NAMES = {"pgd": "PGD", "adef": "ADef", "fgsm": "FGSM", "cw": "C&W"}


@dataclass(frozen=True)
class Effort:
    """How hard to try: gradient steps of PGD, bisections of eps between two rungs of `LADDER`, steps of C&W."""

    steps: int = 40
    bisections: int = 8
    cw_steps: int = 1000


QUICK = Effort(steps=10, bisections=3, cw_steps=200)


@dataclass(frozen=True)
class TargetedResult:
    """What a targeted attack did to N images.

    Attributes:
        adversarial: N C H W in [0, 1]. Where the attack failed, the image itself.
        success: N, bool: the target has the highest logit of `adversarial`.
        l2, linf: N, float64, norms of the perturbation; infinite where the attack failed.
    """

    adversarial: Tensor
    success: Tensor
    l2: Tensor
    linf: Tensor


def targeted_attack(
    model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor, attack: str, effort: Effort | None = None
) -> TargetedResult:
    """Look for a small change that makes the model see `targets[i]` in `images[i]`, all images at once.

    FGSM and PGD (margin between the target and the highest other logit, no random start) are given growing eps, then
    eps is bisected; ADef deforms towards the target (`skreg.attacks.ADef` at its defaults); C&W is that of Foolbox 3
    with 5 constants. An image that the model takes for the target anyway is a success at distance 0.

    Args:
        images: N C H W, floating point in [0, 1], on the model's device.
        labels, targets: N, int64.
        attack: one of `TARGETED`.
        effort: None for `Effort()`.

    Raises:
        TypeError, ValueError: for an unknown attack, or tensors that are not as above.
        FloatingPointError: the model's logits are not finite.
    """
    check_inputs(model, images, labels)
    check_labels(targets, images, name="targets")
    check_choice("attack", attack, TARGETED)
    effort = effort or Effort()
    with attack_mode(model, "eval"), torch.enable_grad():
        forward = finite_forward(model)
        with torch.no_grad():
            logits = forward(images)
        check_classes(targets, logits.shape[1], name="targets")
        there = logits.argmax(dim=1) == targets
        adversarial, success = images.clone(), there.clone()
        rest = (~there).nonzero()[:, 0]
        if len(rest):
            points = _search(forward, images[rest], labels[rest], targets[rest], attack, effort).detach().clamp(0, 1)
            hit = _reached(forward, points, targets[rest])
            adversarial[rest[hit]] = points[hit]
            success[rest[hit]] = True
    change = (adversarial.double() - images.double()).flatten(1)

    def norm(order: float) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(change, order, dim=1)
        return norms.masked_fill(~success, torch.inf)

    return TargetedResult(adversarial, success, l2=norm(2), linf=norm(torch.inf))


def _search(forward: nn.Module, images: Tensor, labels: Tensor, targets: Tensor, attack: str, effort: Effort) -> Tensor:
    """Where the attack ended, N C H W."""
    if attack == "adef":
        return Deformation().run(forward, images, labels, targets)[0]
    if attack == "cw":
        criterion = require("foolbox", "lab").criteria.TargetedMisclassification(targets)
        return carlini_wagner(
            forward, images, criterion, binary_search_steps=5, steps=effort.cw_steps, initial_const=1.0
        )

    def at(index: Tensor, eps: Tensor) -> Tensor:
        x, y, t = images[index], labels[index], targets[index]
        if attack == "fgsm":
            return fgsm(forward, x, y, eps=eps, target=t, mode="keep")
        return pgd(
            forward, x, y, eps=eps, steps=effort.steps, random_start=False, objective="margin", target=t, mode="keep"
        )

    return _smallest_eps(forward, images, targets, at, effort.bisections)


def _smallest_eps(
    forward: nn.Module, images: Tensor, targets: Tensor, at: Callable[[Tensor, Tensor], Tensor], bisections: int
) -> Tensor:
    """The point of the smallest eps for which `at` (images by number, their eps) reaches the targets."""
    best = images.clone()
    low = torch.zeros(len(images), dtype=images.dtype, device=images.device)
    high = torch.full_like(low, torch.inf)

    def attempt(index: Tensor, eps: Tensor) -> None:
        points = at(index, eps)
        hit = _reached(forward, points, targets[index])
        best[index[hit]] = points[hit]  # eps only ever falls for an image that was hit before
        high[index[hit]] = eps[hit]
        low[index[~hit]] = eps[~hit]

    for eps in LADDER:
        rest = high.isinf().nonzero()[:, 0]
        if len(rest):
            attempt(rest, torch.full_like(low[rest], eps))
    found = high.isfinite().nonzero()[:, 0]
    for _ in range(bisections if len(found) else 0):
        attempt(found, (low[found] + high[found]) / 2)
    return best


def _reached(forward: nn.Module, points: Tensor, targets: Tensor) -> Tensor:
    with torch.no_grad():
        reached: Tensor = forward(points).argmax(dim=1) == targets
    return reached


def targeted_grid(images: Tensor, predictions: Tensor, result: TargetedResult, classes: Sequence[str]) -> Figure:
    """Draw a column for each original and a row for each target, the originals framed on the diagonal.

    Below each image: the l2 and linf norms of the perturbation. Failures are faded and crossed out.

    Args:
        images: K C H W, one of each class.
        predictions: K, what the model sees in them.
        result: of K x K attacks, row by row; those of the diagonal are not read.
        classes: K names.

    Raises:
        ValueError: the numbers of images, results and classes do not fit.
    """
    count = len(classes)
    if len(images) != count or len(predictions) != count or len(result.success) != count * count:
        raise ValueError(
            f"expected {count} images and predictions, one a class, and {count * count} results, found "
            f"{len(images)}, {len(predictions)} and {len(result.success)}"
        )
    rows = []
    for target in range(count):
        row = []
        for original in range(count):
            index, seen = target * count + original, int(predictions[original])
            if target == original:
                text = "original\n" if seen == original else f"seen as\n{classes[seen]}"
                row.append(Cell(images[original], text, framed=True))
            elif result.success[index]:
                text = f"l2 {float(result.l2[index]):.2g}\nl∞ {float(result.linf[index]):.2g}"
                row.append(Cell(result.adversarial[index], text))
            else:
                row.append(Cell(images[original], "failed\n", failed=True))
        rows.append(row)
    return image_grid(rows, classes, classes, row_title="target class", column_title="original class")


def draw_targeted(lineup: Lineup, attack: str) -> Iterator[Drawing]:
    """A page for each model: the first test image of each class, attacked towards all other classes."""
    classes, effort = lineup.info.classes, QUICK if lineup.quick else Effort()
    count = len(classes)
    images, labels = first_of_each_class(*lineup.test_images(), count, 1)
    how = {
        "pgd": f"PGD, {effort.steps} steps on the margin, no random start, smallest linf eps by "
        f"{effort.bisections} bisections",
        "fgsm": f"FGSM, smallest linf eps by {effort.bisections} bisections",
        "adef": "ADef at its defaults (at most 100 steps)",
        "cw": f"C&W (l2) of Foolbox 3, 5 constants, at most {effort.cw_steps} steps each",
    }[attack]
    # Row by row: every image towards the first class, then towards the second, ...
    sources, originals = images.repeat(count, 1, 1, 1), labels.repeat(count)
    targets = labels.repeat_interleave(count)

    def compute(model: nn.Module, told: Callable[[str], None]) -> dict[str, Tensor]:
        return vars(targeted_attack(model, sources, originals, targets, attack, effort))

    facts = {
        "figure": "targeted",
        "attack": attack,
        "effort": vars(effort),
        "images": digest({"images": images, "labels": labels}),
    }
    for name, kept in of_each_model(lineup, f"targeted-{attack}", facts, compute):
        result = TargetedResult(**kept)
        with torch.no_grad():
            predictions = lineup.models[name](images).argmax(dim=1).cpu()
        off = ~torch.eye(count, dtype=torch.bool).flatten()
        failed = int((~result.success[off]).sum())
        median = float(result.l2[off & result.success].median()) if failed < int(off.sum()) else torch.inf
        yield Drawing(
            name=f"targeted-{attack}-{name}",
            title=f"{name}: every class turned into every other by {_NAMES[attack]}",
            caption=f"The first test image of each class of {lineup.info.name}, in the fixed permutation of "
            f"skreg.data.load (columns; framed: the original), changed until {name} sees the class of the row. {how}; "
            "nothing is random. Below each image, the l2 and linf norms of the perturbation, 0 where the "
            f"original is taken for the target; median l2 of those found {median:.2g}. {failed} of {int(off.sum())} "
            "attacks failed; these are faded and crossed out.",
            alt=f"A table of {count} by {count} images, a column for each original and a row for each target among "
            f"{', '.join(classes)}, with the size of the perturbation below each.",
            figure=targeted_grid(images.cpu(), predictions, result, classes),
        )
