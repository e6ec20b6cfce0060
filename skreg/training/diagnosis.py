"""Where a net went wrong: the layer that holds or makes the first number that is not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def find_bad_layer(model: nn.Module, images: Tensor) -> str:
    """Say which parameter or buffer of `model` is not finite, or else which layer's output for `images` is the first.

    Returns:
        a clause for a message, or "" when all is finite.
    """
    for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in tensors:
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                return f"the {kind} {name} holds {_what(tensor)}"
    found: list[str] = []
    handles = [module.register_forward_hook(_watch(name, found)) for name, module in model.named_modules() if name]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


def _watch(name: str, found: list[str]):  # type: ignore[no-untyped-def]
    def hook(module: nn.Module, inputs: object, output: object) -> None:
        if not found and isinstance(output, Tensor) and not bool(output.isfinite().all()):
            found.append(f"the output of {name} ({type(module).__name__}) holds {_what(output)}")

    return hook


def _what(tensor: Tensor) -> str:
    return "NaN" if bool(tensor.isnan().any()) else "infinity"
