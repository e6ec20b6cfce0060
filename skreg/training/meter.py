"""The sums of an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from skreg.losses import LossOutput


class EpochMeter:
    """The numbers of each step of an epoch, kept on the device until somebody reads them."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self._rows = torch.zeros(steps, 3, device=device)  # summed over the batch: data loss, penalty, correct
        self._steps = 0
        self._images = 0
        self._start = time.perf_counter()

    def add(self, output: LossOutput, penalty: Tensor, labels: Tensor) -> None:
        correct = (output.logits.argmax(1) == labels).sum()
        losses = torch.stack((output.loss.detach(), penalty.detach())) * len(labels)
        self._rows[self._steps, :2] = losses
        self._rows[self._steps, 2] = correct
        self._steps += 1
        self._images += len(labels)

    def check_finite(self, epoch: int, diagnose: Callable[[], str] = str) -> None:
        """Raise FloatingPointError for the first step whose loss is not finite; `diagnose` may say why it is."""
        bad = (~self._rows.isfinite()).any(1).nonzero()
        if len(bad):
            step = int(bad[0]) + 1
            data_loss, penalty = self._rows[step - 1, :2].tolist()
            reason = diagnose()
            raise FloatingPointError(
                f"epoch {epoch}, step {step}: the loss is not finite (data loss {data_loss}, penalty "
                f"{penalty}){reason and ': ' + reason}; lower the learning rate or the strength"
            )

    @property
    def loss(self) -> float:
        return float(self._rows[:, :2].sum()) / self._images

    @property
    def images_per_second(self) -> float:
        return self._images / (time.perf_counter() - self._start)

    def record(self) -> dict[str, float]:
        data_loss, penalty, correct = (self._rows.double().sum(0) / self._images).tolist()
        return {
            "loss": data_loss + penalty,
            "data_loss": data_loss,
            "penalty": penalty,
            "train_accuracy": correct,
            "images_per_second": self.images_per_second,
        }
