"""The losses of the paper's section 3, one function each, called alike.

Each takes a model that maps images (N, C, H, W) to logits (N, K), images within the attack's bounds and int64
labels (N,), and returns the mean over the batch. The attack runs in `attack.mode` and leaves nothing behind;
the forward passes of the loss run through `model(...)` in the mode that the model is in, clean and
adversarial images apart, since together they would share their batch norm statistics. Losses are computed in
float32 or better, under autocast too. The loss of an empty batch is 0. An attack's `objective` is set by the
loss.

T and L call the model twice before the gradient. A `DistributedDataParallel` model with batch norm needs
`broadcast_buffers=False` for that in PyTorch releases without the fix of pytorch/pytorch#175024.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from skreg._checks import check_classes, check_images, check_labels, check_logits, check_model, check_number
from skreg.attacks.configs import PGD
from skreg.attacks.mode import is_modeless
from skreg.attacks.noise import Generator
from skreg.attacks.objectives import Objective, kl_divergence, widen


class LossOutput(NamedTuple):
    """A loss, and what it was computed from, for the log.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
        >>> loss, logits, adversarial_images = vanilla(model, images, labels)
        >>> adversarial_images is None
        True
    """

    loss: Tensor
    """Scalar with a graph, to call `backward` on."""
    logits: Tensor
    """(N, K) without a graph: of the clean images; in `adversarial`, which has no others, of those."""
    adversarial: Tensor | None
    """The adversarial images (N, C, H, W), or None for `vanilla`."""


class Loss(Protocol):
    """How every loss of this module can be called.

    Example:
        >>> loss: Loss = LOSSES["T"]
        >>> loss is trades
        True
    """

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        attack: PGD,
        gamma: float = 1.0,
        generator: Generator | None = None,
    ) -> LossOutput: ...


def vanilla(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: PGD | None = None,
    gamma: float = 1.0,
    generator: Generator | None = None,
) -> LossOutput:
    """Return CE(f(x), y), the paper's V. `attack`, `gamma` and `generator` are not used.

    Raises:
        TypeError, ValueError: when the model, images, labels or logits are not as the module describes.
        FloatingPointError: when the logits are NaN (looked for on the CPU only: it would make CUDA wait).

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
        >>> output = vanilla(model, images, labels)
        >>> output.loss.backward()
        >>> output.logits.shape
        torch.Size([2, 3])
    """
    logits = _forward(model, images, labels)
    return LossOutput(_cross_entropy(logits, labels), logits.detach(), None)


def trades(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: PGD,
    gamma: float = 1.0,
    generator: Generator | None = None,
) -> LossOutput:
    """Return CE(f(x), y) + gamma * KL(p(x) || p(x')), the paper's T.

    p is the softmax of the logits and x' maximises the divergence. This is TRADES (Zhang et al.,
    arXiv:1901.08573); `gamma` is its 1/lambda, called beta in its program. Gradients flow through both sides
    of the divergence, and none through x'.

    Raises:
        TypeError, ValueError: as `vanilla`; when `attack` is no PGD or starts at the images, where the
            divergence has no gradient; when `gamma` is negative or not finite.
        FloatingPointError: as `vanilla`, and on any device when logits or gradients become NaN in the attack.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
        >>> output = trades(model, images, labels, attack=PGD(eps=0.1, steps=2), gamma=6.0)
        >>> output.loss.backward()
    """
    gamma = check_number("gamma", gamma)
    # The attack needs the clean logits too, in its own mode: one forward pass serves both where modes do not differ.
    # Elsewhere the attack comes first, because the pass in training mode moves batch norm's running statistics.
    if is_modeless(model):
        clean = _forward(model, images, labels)
        adversarial_images = _attack(attack, "kl", model, images, labels, generator, clean_logits=clean.detach())
    else:
        adversarial_images = _attack(attack, "kl", model, images, labels, generator)
        clean = _forward(model, images, labels)
    perturbed = _forward(model, adversarial_images, labels)
    loss = _cross_entropy(clean, labels) + gamma * _mean(kl_divergence(clean, perturbed))
    return LossOutput(loss, clean.detach(), adversarial_images)


def adversarial(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: PGD,
    gamma: float = 1.0,
    generator: Generator | None = None,
) -> LossOutput:
    """Return CE(f(x'), y), the paper's A, with x' that maximises it.

    This is adversarial training (Madry et al., arXiv:1706.06083). `gamma` is not used.

    Raises:
        TypeError, ValueError: as `vanilla`; when `attack` is no PGD.
        FloatingPointError: as `vanilla`, and on any device when logits or gradients become NaN in the attack.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
        >>> output = adversarial(model, images, labels, attack=PGD(eps=0.1, steps=2))
        >>> output.loss.backward()
    """
    adversarial_images = _attack(attack, "cross_entropy", model, images, labels, generator)
    perturbed = _forward(model, adversarial_images, labels)
    return LossOutput(_cross_entropy(perturbed, labels), perturbed.detach(), adversarial_images)


def logit_pairing(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: PGD,
    gamma: float = 1.0,
    generator: Generator | None = None,
) -> LossOutput:
    """Return CE(f(x'), y) + gamma * KL(p(x') || p(x)), the paper's L.

    x' maximises the cross-entropy. This is the paper's variation of adversarial logit pairing (Kannan et al.,
    arXiv:1803.06373). It writes k(f(x'), f(x)) and asks that the clean softmax be close to the adversarial
    one, so the adversarial softmax comes first: `trades` with the roles exchanged. Gradients flow through
    both sides of the divergence, and none through x'.

    Raises:
        TypeError, ValueError: as `vanilla`; when `attack` is no PGD; when `gamma` is negative or not finite.
        FloatingPointError: as `vanilla`, and on any device when logits or gradients become NaN in the attack.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
        >>> output = logit_pairing(model, images, labels, attack=PGD(eps=0.1, steps=2), gamma=6.0)
        >>> output.loss.backward()
    """
    gamma = check_number("gamma", gamma)
    adversarial_images = _attack(attack, "cross_entropy", model, images, labels, generator)
    perturbed = _forward(model, adversarial_images, labels)
    clean = _forward(model, images, labels)
    loss = _cross_entropy(perturbed, labels) + gamma * _mean(kl_divergence(perturbed, clean))
    return LossOutput(loss, clean.detach(), adversarial_images)


LOSSES: dict[str, Loss] = {"V": vanilla, "T": trades, "A": adversarial, "L": logit_pairing}


def _attack(
    attack: PGD,
    objective: Objective,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: Generator | None,
    clean_logits: Tensor | None = None,
) -> Tensor:
    if not isinstance(attack, PGD):
        raise TypeError(f"attack must be a skreg.attacks.PGD, found {type(attack).__name__}")
    attack = replace(attack, objective=objective)
    return attack(model, images, labels, generator=generator, clean_logits=clean_logits)


def _forward(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    check_model(model)
    check_images(images)
    check_labels(labels, images)
    logits = check_logits(model(images), images)
    # Reading values would make a CUDA device wait at every step of training.
    if logits.device.type == "cpu":
        check_classes(labels, logits.shape[1])
        if bool(logits.isnan().any()):
            raise FloatingPointError("the model returned NaN logits; look for NaN or inf in its weights and input")
    return logits


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return _mean(F.cross_entropy(widen(logits), labels, reduction="none"))


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(len(values), 1)
