"""A Lightning callback that regularizes whatever the module trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from skreg._extras import require
from skreg.hook import GradientAddition, check_optimizer
from skreg.integrations._callback import built, check_arguments, owners, summary
from skreg.regularizer import SmoothKernelRegularizer

_lightning = require("lightning.pytorch", "lightning")


class SmoothKernelCallback(_lightning.Callback):  # type: ignore[misc, name-defined]  # no static import of an extra
    """Adds the penalty to the training of a LightningModule, with automatic and with manual optimization.

    When training starts it builds a regularizer from the module (by then moved and sharded, with its optimizers
    restored) and finds the optimizers that step a regularized weight. Before each of their steps, once however many
    batches were accumulated, the penalty's gradient joins that of the data. That is the loss form, clipping included:
    Lightning clips after this. A schedule of the strength advances once a batch in which an optimizer stepped.

    After each training epoch it logs ``smooth_kernels/penalty`` (strength times R), ``smooth_kernels/strength`` and
    ``smooth_kernels/roughness`` (mean over layers). Checkpoints hold the regularizer's state.

    Do not call ``reg.attach`` in a LightningModule: Lightning steps with a closure, which the hook refuses.

    Args:
        regularizer: one that exists; None to build one.
        decoupled: after the step instead of through the gradient, see `skreg.hook.attach`.
        arguments: of `SmoothKernelRegularizer`, such as ``strength``. Names are those of the LightningModule, such as
            ``model.conv1.weight``.

    Attributes:
        regularizer: the regularizer, once training has started.

    Raises:
        TypeError: `regularizer` is something else, or there are `arguments` as well.
        ValueError: when training starts: what the regularizer or `attach` raises, no optimizer steps a regularized
            weight, or two step the same one.

    Example:
        >>> callback = SmoothKernelCallback(strength=lambda step: 1e-3 * min(1.0, step / 100))
        >>> trainer = _lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, callbacks=[callback])
    """

    def __init__(
        self, regularizer: SmoothKernelRegularizer | None = None, *, decoupled: bool = False, **arguments: Any
    ) -> None:
        check_arguments(regularizer, arguments)
        self.regularizer = regularizer
        self._given = regularizer
        self._arguments = arguments
        self._decoupled = decoupled
        self._state: Mapping[str, Any] | None = None  # of a checkpoint, until the regularizer is there
        self._additions: dict[int, GradientAddition] = {}  # by the optimizer's identity
        self._handles: list[RemovableHandle] = []
        self._steps = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        regularizer = self.regularizer = built(self._given, pl_module, self._arguments)
        if self._state is not None:
            regularizer.load_state_dict(self._state)
            self._state = None
        for optimizer in owners(regularizer, trainer.optimizers):
            if self._decoupled:
                self._handles.append(regularizer.attach(optimizer, decoupled=True))
            else:
                check_optimizer(regularizer, optimizer, decoupled=False)
                self._additions[id(optimizer)] = GradientAddition(regularizer)
        self._steps = trainer.global_step

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        addition = self._additions.get(id(optimizer))
        if addition is None:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        # By now Lightning has unscaled the gradients, but for optimizers that do it themselves (fused ones).
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            addition.add(optimizer, torch.tensor(scaler.get_scale()))
        else:
            addition.add(optimizer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        assert self.regularizer is not None  # since the start of the training
        if trainer.global_step != self._steps:
            self._steps = trainer.global_step
            self.regularizer.step()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        assert self.regularizer is not None
        pl_module.log_dict(summary(self.regularizer))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._detach()

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._additions = [], {}

    def state_dict(self) -> dict[str, Any]:
        return {} if self.regularizer is None else self.regularizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning restores callbacks before the regularizer can be built.
        self._state = state_dict or None
