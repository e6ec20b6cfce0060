"""A callback of Hugging Face's Trainer that regularizes whatever it trains."""

from __future__ import annotations

from typing import Any

from torch.utils.hooks import RemovableHandle

from skreg._extras import require
from skreg.integrations._callback import built, check_arguments, owners, summary
from skreg.regularizer import SmoothKernelRegularizer

_transformers = require("transformers", "transformers")

_KEY = "SmoothKernelRegularizer"  # in TrainerState.stateful_callbacks


class SmoothKernelCallback(_transformers.TrainerCallback):  # type: ignore[misc, name-defined]  # no static import of an extra
    """Adds the penalty to the training of a `transformers.Trainer`.

    When training starts it builds a regularizer from the model and attaches it to the optimizer that Accelerate wraps:
    one addition a step however many batches were accumulated, right under a GradScaler, and not seen by Trainer's
    clipping (``max_grad_norm``). A schedule of the strength advances once a step. When training ends it detaches.

    What Trainer logs gets ``smooth_kernels/penalty`` (strength times R), ``smooth_kernels/strength`` and
    ``smooth_kernels/roughness`` (mean over layers), in ``trainer.state.log_history`` and for the callbacks after this
    one; those of ``report_to`` come before it, see docs/integrations.md. The regularizer's state is saved in
    trainer_state.json and restored by ``train(resume_from_checkpoint=...)``.

    Args:
        regularizer: one that exists; None to build one.
        decoupled: after the step instead of through the gradient, see `skreg.hook.attach`.
        arguments: of `SmoothKernelRegularizer`, such as ``strength``.

    Attributes:
        regularizer: the regularizer, once training has started.

    Raises:
        TypeError: `regularizer` is something else, or there are `arguments` as well.
        ValueError: when training starts: DeepSpeed, or what the regularizer or `attach` raises.

    Example:
        >>> import torch
        >>> callback = SmoothKernelCallback(strength=lambda step: 1e-3 * min(1.0, step / 100))
        >>> trainer = _transformers.Trainer(torch.nn.Conv2d(3, 8, 3), callbacks=[callback])
    """

    def __init__(
        self, regularizer: SmoothKernelRegularizer | None = None, *, decoupled: bool = False, **arguments: Any
    ) -> None:
        check_arguments(regularizer, arguments)
        self.regularizer = regularizer
        self._given = regularizer
        self._arguments = arguments
        self._decoupled = decoupled
        self._handles: list[RemovableHandle] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if getattr(args, "deepspeed", None):
            raise ValueError(
                "DeepSpeed steps inside its own engine, where no hook is called; add the penalty to the loss instead, "
                "in compute_loss: loss + reg()"
            )
        self._detach()  # from a training that an exception ended
        regularizer = self.regularizer = built(self._given, kwargs["model"], self._arguments)
        if saved := state.stateful_callbacks.get(_KEY):
            regularizer.load_state_dict(saved)
        # Accelerate's wrapper is a torch optimizer too, but calls the hooks of the one inside.
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        self._handles = [regularizer.attach(o, decoupled=self._decoupled) for o in owners(regularizer, [optimizer])]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.regularizer is not None  # since the start of the training
        self.regularizer.step()
        # Here rather than as an ExportableState, which Trainer would build anew from JSON, without a schedule.
        state.stateful_callbacks[_KEY] = self.regularizer.state_dict()

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **kwargs: Any) -> None:
        if not self._handles:
            return  # an evaluation before the training, or after it
        assert self.regularizer is not None
        values = summary(self.regularizer)
        logs.update(values)
        state.log_history[-1].update(values)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._detach()

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
