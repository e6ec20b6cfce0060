"""Activation maximisation: what a net takes for the purest image of a class, the paper's Figures 3 to 6."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from skreg._checks import check_choice, check_count, check_number
from skreg.attacks import attack_mode
from skreg.figures.drawing import Drawing
from skreg.figures.grid import Cell, image_grid
from skreg.figures.lineup import Lineup
from skreg.figures.numbers import digest, of_each_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEAN, DEVIATION = 0.5, 0.25  # of the Gaussian noise to start from; the paper does not say
REPORT_EVERY = 500


@dataclass(frozen=True)
class Setting:
    """How the logit is climbed, projected to [0, 1] after every step.

    Attributes:
        steps: gradient steps.
        step_size: what the gradient is multiplied by or, if `normalized`, the l2 length of the first step.
        normalized: scale each image's gradient to length 1 first, and let the steps shrink linearly to 0: so that nets
            whose gradients differ in size are climbed alike.
    """

    steps: int
    step_size: float
    normalized: bool = False

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_number("step_size", self.step_size, positive=True)


# Section 4.3: "projected gradient descent 10000 iterations with learning rate 0.001". The fast setting takes
# normalized steps, as is usual since Engstrom et al. (arXiv 1906.00945). Neither has a prior of smoothness or jitter:
# what is smooth in these images is the net's own doing.
SETTINGS = {"paper": Setting(10_000, 0.001), "fast": Setting(200, 0.5, normalized=True)}


def gaussian_noise(count: int, shape: Sequence[int], seed: int) -> Tensor:
    """`count` times the same image of Gaussian noise (C H W), clipped to [0, 1]; the same on every device."""
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (MEAN + DEVIATION * noise).clamp(0, 1).expand(count, *shape).clone()


def maximize_activation(
    model: nn.Module,
    start: Tensor,
    classes: Tensor,
    setting: Setting = SETTINGS["fast"],
    *,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Climb the logit of `classes[i]` from `start[i]`, all images at once (paper, section 4.3).

    The model is left as it was found. Nothing is random. It ends early once a step changes nothing, because every
    later one would change nothing too.

    Args:
        model: maps float images to logits (N K).
        start: N C H W in [0, 1], on the model's device.
        classes: N, int64.
        progress: is called with the number of steps done, every `REPORT_EVERY`.

    Returns:
        N C H W in [0, 1].

    Raises:
        FloatingPointError: the gradient is NaN or infinite.
    """
    images = start.detach().clone()
    with attack_mode(model, "eval"), torch.enable_grad():
        for step in range(setting.steps):
            leaf = images.requires_grad_(True)
            logits = model(leaf).gather(1, classes[:, None])
            (gradient,) = torch.autograd.grad(logits.sum(), leaf)
            if not bool(gradient.isfinite().all()):
                raise FloatingPointError(
                    f"step {step}: the gradient of the logits with respect to the images is not finite; look for "
                    "NaN or inf in the model's weights"
                )
            size = setting.step_size
            if setting.normalized:
                length = torch.linalg.vector_norm(gradient.flatten(1), dim=1).reshape(-1, 1, 1, 1)
                # A gradient of exactly 0 stays 0.
                gradient = gradient / length.clamp(min=torch.finfo(gradient.dtype).tiny)
                size *= 1 - step / setting.steps
            moved = (leaf.detach() + size * gradient).clamp(0, 1)
            if torch.equal(moved, images):
                break
            images = moved
            if progress is not None and (step + 1) % REPORT_EVERY == 0:
                progress(step + 1)
    return images.detach()


def activation_grid(
    start: Tensor, maximized: Mapping[str, Tensor], confidences: Mapping[str, Tensor], classes: Sequence[str]
) -> Figure:
    """Draw a row a class: the noise, then each model's image, with its confidence in the class below.

    Args:
        start: K C H W.
        maximized: K C H W by model.
        confidences: K by model, softmax probabilities of the classes.
        classes: K names.
    """
    rows = []
    for index in range(len(classes)):
        cells = [Cell(start[index], framed=True)]
        for name, images in maximized.items():
            cells.append(Cell(images[index], f"{float(confidences[name][index]):.0%}"))
        rows.append(cells)
    return image_grid(rows, classes, ["noise", *maximized], apart=True)


def draw_activation(lineup: Lineup, setting: str) -> Iterator[Drawing]:
    """Activation maximisation of all classes and models in one of `SETTINGS`."""
    check_choice("setting", setting, tuple(SETTINGS))
    options, classes = SETTINGS[setting], lineup.info.classes
    start = gaussian_noise(len(classes), lineup.info.shape, lineup.seed)
    targets = torch.arange(len(classes), device=lineup.device)

    def compute(model: nn.Module, told: Callable[[str], None]) -> dict[str, Tensor]:
        images = maximize_activation(
            model,
            start.to(lineup.device),
            targets,
            options,
            progress=lambda step: told(f"step {step} of {options.steps}"),
        )
        with attack_mode(model, "eval"), torch.no_grad():
            confidence = model(images).softmax(dim=1).gather(1, targets[:, None])[:, 0]
        return {"images": images, "confidence": confidence}

    facts = {"figure": "activation", "options": vars(options), "start": digest({"start": start})}
    maximized, confidences = {}, {}
    for name, kept in of_each_model(lineup, f"activation-{setting}", facts, compute):
        maximized[name], confidences[name] = kept["images"], kept["confidence"]
    how = (
        f"{options.steps} steps along the normalized gradient, from length {options.step_size:g} to 0"
        if options.normalized
        else f"{options.steps:,} steps of {options.step_size:g} times the gradient"
    )
    yield Drawing(
        name=f"activation-{setting}",
        title=f"What the models take for each class, {'fast' if setting == 'fast' else 'steps as in the paper'}",
        caption=f"Activation maximisation: the logit of each class (rows) of {lineup.info.name} is climbed from the "
        f"same Gaussian noise (framed; mean {MEAN}, deviation {DEVIATION}, seed {lineup.seed}), {how}, projected to "
        "[0, 1]; no prior of smoothness. Below each image, the model's confidence in the class. Black 0, white 1. Best "
        "weights of each run.",
        alt=f"A row for each of the classes {', '.join(classes)}: noise, then the image that each of "
        f"{', '.join(maximized)} prefers for the class.",
        figure=activation_grid(start, maximized, confidences, classes),
    )
