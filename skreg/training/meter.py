"""The sums of an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from skreg.losses import LossOutput
from skreg.training.distributed import Group


class EpochMeter:
    """The numbers of each step of an epoch, kept on the device until somebody reads them."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self._rows = torch.zeros(steps, 3, device=device)  # summed over the batch: data loss, penalty, correct
        self._steps = 0
        self._counted = 0
        self._images = 0
        self._start = time.perf_counter()

    def add(
        self,
        output: LossOutput,
        penalty: Tensor,
        labels: Tensor,
        *,
        count: int | None = None,
        batch: int | None = None,
    ) -> None:
        """Add a step on a part of a batch of `batch` images, of which the first `count` count; None for all."""
        count = len(labels) if count is None else count
        correct = (output.logits.argmax(1) == labels)[:count].sum()
        losses = torch.stack((output.loss.detach(), penalty.detach())) * count
        self._rows[self._steps, :2] = losses
        self._rows[self._steps, 2] = correct
        self._steps += 1
        self._counted += count
        self._images += count if batch is None else batch

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
    def losses(self) -> tuple[float, float]:
        """Mean data loss and mean penalty, over the images of this process so far."""
        data_loss, penalty = (self._rows[:, :2].sum(0) / max(self._counted, 1)).tolist()
        return data_loss, penalty

    @property
    def images_per_second(self) -> float:
        return self._images / (time.perf_counter() - self._start)

    def record(self, group: Group) -> dict[str, float]:
        """The means over the images of all processes."""
        data_loss, penalty, correct = (group.sum(self._rows.double().sum(0)) / self._images).tolist()
        return {
            "loss": data_loss + penalty,
            "data_loss": data_loss,
            "penalty": penalty,
            "train_accuracy": correct,
            "images_per_second": self.images_per_second,
        }
