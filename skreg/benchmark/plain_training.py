"""A plain loop of adversarial training, as the papers give it: what skreg's losses are measured beside.

It follows the published algorithms line by line: TRADES (arXiv:1901.08573) computes the clean output anew in every
step of its attack, and both leave the parameters' gradients switched on in the attack.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEVIATION = 0.001  # of TRADES' start


def plain_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    *,
    loss: str,
    eps: float,
    step_size: float,
    steps: int,
) -> Tensor:
    """The attack of TRADES (`loss` "T") or of Madry et al. ("A"), from `start`."""
    adversarial = start.detach()
    for _ in range(steps):
        adversarial.requires_grad_()
        if loss == "T":
            value = F.kl_div(F.log_softmax(model(adversarial), dim=1), F.softmax(model(images), dim=1), reduction="sum")
        else:
            value = F.cross_entropy(model(adversarial), labels)
        (gradient,) = torch.autograd.grad(value, [adversarial])
        adversarial = adversarial.detach() + step_size * torch.sign(gradient.detach())
        adversarial = torch.min(torch.max(adversarial, images - eps), images + eps)
        adversarial = torch.clamp(adversarial, 0.0, 1.0)
    return adversarial


def plain_start(images: Tensor, loss: str, eps: float, generator: torch.Generator) -> Tensor:
    """The random start that `skreg.attacks.pgd` draws from `generator`, for a comparison of what follows."""
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    draw = torch.randn if loss == "T" else torch.rand
    noise = draw(images.shape, generator=generator)
    if loss == "T":
        return images.add(noise, alpha=DEVIATION).clamp(low, high)
    return images.addcmul(noise * 2 - 1, torch.tensor(eps)).clamp(low, high)


def plain_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    *,
    loss: str,
    **attack: Any,
) -> None:
    """A training step of TRADES with beta = 1 (`loss` "T"), or of adversarial training ("A").

    Args:
        start: where the attack starts.
        attack: eps, step_size and steps of `plain_attack`.
    """
    model.eval()
    adversarial = plain_attack(model, images, labels, start, loss=loss, **attack)
    model.train()
    optimizer.zero_grad()
    perturbed = model(adversarial)
    if loss == "T":
        clean = model(images)
        divergence = F.kl_div(F.log_softmax(perturbed, dim=1), F.softmax(clean, dim=1), reduction="sum")
        value = F.cross_entropy(clean, labels) + divergence / len(images)
    else:
        value = F.cross_entropy(perturbed, labels)
    torch.autograd.backward(value)
    optimizer.step()
