"""Gradient sign attacks in the linf norm: projected gradient ascent and its single step."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from skreg._checks import (
    check_bounds,
    check_choice,
    check_count,
    check_images,
    check_labels,
    check_model,
    check_range,
    per_image,
)
from skreg.attacks.ascent import Ascent, Problem
from skreg.attacks.mode import Mode, attack_mode
from skreg.attacks.noise import BatchPart, Generator, Start
from skreg.attacks.objectives import Objective

RandomStart = bool | Start

# The standard deviation of the start that TRADES takes, as a share of the width of the bounds.
GAUSSIAN_START = 0.001


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 40,
    step_size: float | Tensor | None = None,
    random_start: RandomStart = True,
    restarts: int = 1,
    objective: Objective = "cross_entropy",
    target: Tensor | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    mode: Mode = "eval",
    generator: Generator | None = None,
    clean_logits: Tensor | None = None,
) -> Tensor:
    """Return adversarial images by projected gradient ascent in the linf norm (Madry, arXiv:1706.06083).

    Each step adds `step_size * sign(gradient)` and clamps to [x - eps, x + eps] within `bounds`. One run
    returns its last iterate. With `restarts`, every further run takes on only the images that are still
    classified right (not yet as `target`), and each image keeps its first adversarial, or else the iterate
    with the best objective.

    Only the gradient with respect to the images is computed. The model is handed back as it was (see
    `attack_mode`), and a `DistributedDataParallel` model is attacked without its wrapper, so without
    communication. It works under the caller's `torch.no_grad()`, `torch.inference_mode()` and autocast; judge
    a model in full precision, though, since small gradients vanish in half precision. On CUDA the checks wait
    for the device twice by the first step, once after each run, and once each for `eps` and `step_size` if
    they are tensors; restarts wait a few times each.

    Args:
        model: maps images (N, C, H, W) to logits (N, K).
        images: floating point (N, C, H, W), within `bounds`; N may be 0.
        labels: int64 (N,), the true classes.
        eps: largest change of a pixel, in the units of the images; a number, or a tensor (N,), one an image.
        steps: gradient steps a run, at least 1.
        step_size: change of a pixel in one step, a number or a tensor as `eps`; None for 2.5 * eps / steps,
            with which a run can cross the whole interval.
        random_start: "uniform" in the eps ball; "gaussian" with deviation 0.001 of the width of `bounds`, as
            in TRADES; True for what is usual with the objective, Gaussian for "kl" and uniform for the
            others; False to start at the images themselves.
        restarts: runs in all, at least 1.
        objective: "cross_entropy"; "kl", KL(softmax(clean) || softmax(adversarial)) as in TRADES
            (arXiv:1901.08573); or "margin", the largest other logit minus that of the label.
        target: int64 (N,), classes to reach; the objective is then minimised for the target instead.
        bounds: lowest and highest pixel value.
        mode: "eval", "train" or "keep", the model's mode during the attack. In training mode batch norm sees
            the images of the run alone, so in later runs the survivors.
        generator: draws the start, on its own device; None for torch's default one. A `BatchPart` where the
            images are a part of a batch that several processes attack; not with `restarts` above 1.
        clean_logits: (N, K), those of `images` where the caller has them already, in the mode of the attack; with
            objective "kl" only, which computes them otherwise.

    Returns:
        Images of the shape, dtype, device and memory format of `images`, without a graph, within `bounds`,
        and within `eps` of `images` up to rounding. Where `eps` is 0 they equal `images`.

    Raises:
        TypeError, ValueError: when an argument is not as described, labels exceed the logits, the options
            cannot go together, or the logits do not depend on the images.
        FloatingPointError: when the model returns NaN, or its gradient is NaN.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
        >>> adversarial = pgd(model, images, labels, eps=0.1, steps=5)
        >>> bool((adversarial - images).abs().max() < 0.1001)
        True
    """
    check_model(model)
    check_images(images)
    check_labels(labels, images)
    check_pgd_options(steps, random_start, restarts, objective)
    if restarts > 1 and isinstance(generator, BatchPart):
        raise ValueError("restarts above 1 go on with the survivors here alone: give a torch.Generator, no BatchPart")
    if target is not None:
        check_labels(target, images, name="target")
        if objective == "kl":
            raise ValueError('objective "kl" measures the distance from the clean output and takes no target')
    if clean_logits is not None:
        if objective != "kl":
            raise ValueError(f'clean_logits are for objective "kl" alone, found {objective!r}')
        if clean_logits.ndim != 2 or len(clean_logits) != len(images):
            raise ValueError(f"clean_logits: expected ({len(images)}, K), found {tuple(clean_logits.shape)}")
    low, high = check_bounds(bounds)
    check_range(images, (low, high))

    # The caller may be in inference mode, whose tensors cannot take part in a gradient: clones made here can.
    with torch.inference_mode(False), torch.enable_grad(), attack_mode(model, mode):
        images = images.detach()
        radius = per_image("eps", eps, images)
        step = 2.5 * radius / steps if step_size is None else per_image("step_size", step_size, images, positive=True)
        if len(images) == 0:
            return images
        ascent = Ascent(
            network=model.module if isinstance(model, DistributedDataParallel) else model,
            objective=objective,
            targeted=target is not None,
            start=_start_of(random_start, objective),
            start_deviation=GAUSSIAN_START * (high - low),
            steps=steps,
            generator=generator,
        )
        problem = Problem(
            images=images,
            classes=(labels if target is None else target).clone(),
            eps=radius,
            step_size=step,
            lower=(images - radius).clamp_(min=low),
            upper=(images + radius).clamp_(max=high),
            clean_probabilities=ascent.clean_probabilities(images, clean_logits) if objective == "kl" else None,
        )
        return ascent.run(problem) if restarts == 1 else ascent.run_repeatedly(problem, restarts)


def fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    target: Tensor | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    mode: Mode = "eval",
) -> Tensor:
    """Return `images + eps * sign(gradient of the cross-entropy)`, clamped (Goodfellow, arXiv:1412.6572).

    With `target` the sign is reversed, towards that class. Arguments, result and errors are those of `pgd`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
        >>> fgsm(model, images, labels, eps=0.1).shape
        torch.Size([2, 1, 2, 2])
    """
    # One step of PGD's default size, 2.5 eps, ends at the edge of the interval: exactly at eps.
    return pgd(model, images, labels, eps=eps, steps=1, random_start=False, target=target, bounds=bounds, mode=mode)


def check_pgd_options(steps: int, random_start: RandomStart, restarts: int, objective: Objective) -> None:
    """Raise unless the options of `pgd` that concern no tensor are right, alone and together."""
    check_count("steps", steps)
    check_count("restarts", restarts)
    check_choice("objective", objective, get_args(Objective))
    check_choice("random_start", random_start, (True, False, *get_args(Start)))
    if random_start is False and objective == "kl":
        raise ValueError('objective "kl" needs a random start: at the images themselves its gradient is zero')
    if random_start is False and restarts > 1:
        raise ValueError(f"restarts={restarts} need a random start: without one every run is the same")


def _start_of(random_start: RandomStart, objective: Objective) -> Start | None:
    if random_start is True:
        return "gaussian" if objective == "kl" else "uniform"
    return random_start or None
