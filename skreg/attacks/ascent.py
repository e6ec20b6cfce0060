"""Projected sign gradient ascent on a batch, once or with restarts on the survivors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skreg._checks import check_classes, check_logits
from skreg.attacks.noise import Generator, Start, draw
from skreg.attacks.objectives import Objective, evaluate_objective, widen

NO_GRADIENT = (
    "the logits carry no gradient with respect to the images; "
    "the model must not detach them or compute under torch.no_grad()"
)
NAN_LOGITS = "the model returned NaN logits during the attack; look for NaN or inf in its weights"
NAN_GRADIENT = (
    "the gradient of the objective with respect to the images is NaN although the logits are not; "
    "the model has infinite logits or an operation without a derivative at these images"
)


@dataclass(frozen=True)
class Problem:
    """What belongs to each image, so that a part of the batch can be attacked on its own."""

    images: Tensor  # (N, C, H, W)
    classes: Tensor  # (N,) labels, or targets
    eps: Tensor  # (N, 1, 1, 1)
    step_size: Tensor  # (N, 1, 1, 1)
    lower: Tensor  # (N, C, H, W)
    upper: Tensor  # (N, C, H, W)
    clean_probabilities: Tensor | None  # (N, K)

    def select(self, index: Tensor) -> Problem:
        """Return the problem of the images numbered by `index` (M,)."""
        clean = self.clean_probabilities
        return Problem(
            images=self.images[index],
            classes=self.classes[index],
            eps=self.eps[index],
            step_size=self.step_size[index],
            lower=self.lower[index],
            upper=self.upper[index],
            clean_probabilities=None if clean is None else clean[index],
        )


@dataclass(frozen=True)
class Ascent:
    """What all images share: the network, what to climb and how."""

    network: nn.Module
    objective: Objective
    targeted: bool
    start: Start | None
    start_deviation: float
    steps: int
    generator: Generator | None

    def run(self, problem: Problem) -> Tensor:
        """Return the last iterate of one run (N, C, H, W)."""
        iterate = self._first_iterate(problem).requires_grad_()
        found_nan = torch.zeros(2, dtype=torch.bool, device=iterate.device)
        for step in range(self.steps):
            # A view, because autocast keeps its half precision copy of a leaf and would miss its changes.
            logits = check_logits(self.network(iterate.view_as(iterate)), iterate)
            if step == 0:
                check_classes(problem.classes, logits.shape[1], name="target" if self.targeted else "labels")
                if not logits.requires_grad:
                    raise ValueError(NO_GRADIENT)
            # The sum, not the mean: an image's gradient is its own and does not shrink with the batch.
            (gradient,) = torch.autograd.grad(self._value(logits, problem).sum(), iterate)
            # Kept on the device until the run is over; the step itself would hide NaN, whose sign is 0.
            found_nan |= torch.stack([logits.isnan().any(), gradient.isnan().any()])
            with torch.no_grad():
                iterate.addcmul_(gradient.sign(), problem.step_size).clamp_(problem.lower, problem.upper)
        nan_logits, nan_gradient = found_nan.tolist()
        if nan_logits:
            raise FloatingPointError(NAN_LOGITS)
        if nan_gradient:
            raise FloatingPointError(NAN_GRADIENT)
        return iterate.detach()

    def run_repeatedly(self, problem: Problem, restarts: int) -> Tensor:
        """Return the best iterates of up to `restarts` runs, each on the survivors of those before it."""
        best = self.run(problem)
        success, value = self._judge(best, problem)
        for _ in range(restarts - 1):
            survivors = (~success).nonzero().squeeze(1)
            if len(survivors) == 0:
                break
            part = problem.select(survivors)
            candidates = self.run(part)
            candidate_success, candidate_value = self._judge(candidates, part)
            better = candidate_success | (candidate_value > value[survivors])
            improved = survivors[better]
            best[improved] = candidates[better]
            success[improved] = candidate_success[better]
            value[improved] = candidate_value[better]
        return best

    @torch.no_grad()
    def clean_probabilities(self, images: Tensor, logits: Tensor | None) -> Tensor:
        """Return the class probabilities of `images` (N, K), from their `logits` (N, K) where these are known."""
        if logits is None:
            logits = check_logits(self.network(images), images)
        return F.softmax(widen(logits), dim=1)

    def _first_iterate(self, problem: Problem) -> Tensor:
        # Written into a clone, which keeps the memory format of the images.
        iterate = problem.images.clone()
        if self.start is None:
            return iterate
        noise = draw(self.start, iterate, self.generator)
        if self.start == "gaussian":
            iterate.add_(noise, alpha=self.start_deviation)
        else:
            iterate.addcmul_(noise.mul_(2).sub_(1), problem.eps)
        return iterate.clamp_(problem.lower, problem.upper)

    def _value(self, logits: Tensor, problem: Problem) -> Tensor:
        """Return what the run maximises, one value for each image (N,)."""
        value = evaluate_objective(self.objective, logits, problem.classes, problem.clean_probabilities)
        return -value if self.targeted else value

    @torch.no_grad()
    def _judge(self, adversarial: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return for each image whether it is adversarial, and what the run maximises: bool (N,), (N,)."""
        logits = check_logits(self.network(adversarial), adversarial)
        if bool(logits.isnan().any()):
            raise FloatingPointError(NAN_LOGITS)
        reached = logits.argmax(dim=1) == problem.classes
        return (reached if self.targeted else ~reached), self._value(logits, problem)
