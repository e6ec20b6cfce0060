"""Borrow a model for an attack and hand it back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from torch import Tensor, nn

from skreg._checks import check_choice, check_model

Mode = Literal["eval", "train", "keep"]

# Layers of PyTorch that compute the same in eval and in training mode.
_MODELESS = (
    nn.Sequential, nn.Identity, nn.Flatten, nn.Unflatten, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Sigmoid,
    nn.Tanh, nn.LayerNorm, nn.GroupNorm,
)  # fmt: skip


def is_modeless(model: nn.Module) -> bool:
    """Whether `model` surely computes the same in eval and in training mode, as nets without batch norm and dropout do.

    That is told from the types of its modules: PyTorch's own without such a difference, and others that say so by an
    attribute `modeless` (as `skreg.models.Normalize`). Hooks may do anything, so that a module with one is none.
    """
    check_model(model)
    return all(
        (type(module) in _MODELESS or getattr(module, "modeless", False) is True)
        and not (module._forward_hooks or module._forward_pre_hooks)
        for module in model.modules()
    )


@contextmanager
def attack_mode(model: nn.Module, mode: Mode = "eval") -> Iterator[None]:
    """Freeze the parameters of `model` and set its mode for as long as the context lasts.

    `mode` is "eval", "train", or "keep" for the mode that each submodule is in. When the context ends, by
    whatever exception, every submodule has its own `training` flag back, every parameter its `requires_grad`,
    and `.grad` was never touched. Where a submodule is in training mode the model works on copies of its
    buffers, so that batch norm uses the statistics of the batch, as in training, but its running statistics
    stay what they were.

    It sets no gradient mode: whoever wants gradients with respect to the input enables them. Enter it outside
    `torch.inference_mode`, because copies made inside that cannot be saved for a backward pass.

    Raises:
        TypeError: when `model` is not a module.
        ValueError: when `mode` is none of the three.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> with attack_mode(model):
        ...     model.training, model.weight.requires_grad
        (False, False)
        >>> model.training, model.weight.requires_grad
        (True, True)
    """
    check_model(model)
    check_choice("mode", mode, get_args(Mode))
    flags = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    buffers: list[tuple[nn.Module, str, Tensor]] = []
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        if mode != "keep":
            model.train(mode == "train")
        if any(module.training for module in model.modules()):
            buffers = _own_buffers(model)
            _work_on_copies(buffers)
        yield
    finally:
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
        for module, training in flags:
            # Through train(), which some modules override to do more than set the flag.
            if module.training != training:
                module.train(training)
        for module, training in flags:
            module.training = training
        for parameter in trainable:
            parameter.requires_grad_(True)


def _own_buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    return [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    ]


def _work_on_copies(buffers: list[tuple[nn.Module, str, Tensor]]) -> None:
    """Put copies in their places; writing old values back would invalidate graphs that saved a buffer."""
    copies: dict[int, Tensor] = {}
    for module, name, buffer in buffers:
        # Buffers shared between modules stay shared.
        setattr(module, name, copies.setdefault(id(buffer), buffer.detach().clone()))
