"""Attacks with their options filled in, as values to pass around, compare and record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from torch import Tensor, nn

from skreg._checks import check_bounds, check_choice, check_number
from skreg.attacks.gradient import RandomStart, check_pgd_options, fgsm, pgd
from skreg.attacks.mode import Mode
from skreg.attacks.noise import Generator
from skreg.attacks.objectives import Objective


@dataclass(frozen=True)
class PGD:
    """The options of `pgd`, checked when it is made, and callable on a batch.

    Its default is ten steps, as in training; `eps` and `step_size` are numbers.

    Raises:
        TypeError, ValueError: when an option is not as `pgd` describes it.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
        >>> attack = PGD(eps=0.1, steps=5)
        >>> attack(model, images, labels, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 2, 2])
    """

    eps: float
    steps: int = 10
    step_size: float | None = None
    random_start: RandomStart = True
    restarts: int = 1
    objective: Objective = "cross_entropy"
    bounds: tuple[float, float] = (0.0, 1.0)
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        check_number("eps", self.eps)
        if self.step_size is not None:
            check_number("step_size", self.step_size, positive=True)
        check_pgd_options(self.steps, self.random_start, self.restarts, self.objective)
        check_bounds(self.bounds)
        check_choice("mode", self.mode, get_args(Mode))

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        target: Tensor | None = None,
        generator: Generator | None = None,
        clean_logits: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, C, H, W); see `pgd`."""
        return pgd(model, images, labels, target=target, generator=generator, clean_logits=clean_logits, **vars(self))


@dataclass(frozen=True)
class FGSM:
    """The options of `fgsm`, checked when it is made, and callable on a batch.

    Raises:
        TypeError, ValueError: when an option is not as `fgsm` describes it.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
        >>> FGSM(eps=0.1)(model, images, labels).shape
        torch.Size([2, 1, 2, 2])
    """

    eps: float
    bounds: tuple[float, float] = (0.0, 1.0)
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        check_number("eps", self.eps)
        check_bounds(self.bounds)
        check_choice("mode", self.mode, get_args(Mode))

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        target: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """Return adversarial images (N, C, H, W); see `fgsm`.

        Nothing is random: `generator` is there so that all attacks can be called alike.
        """
        return fgsm(model, images, labels, target=target, **vars(self))
