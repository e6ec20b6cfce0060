"""Checks of the weights and coefficients that a penalty is asked for, and what messages call them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def weight_name(index: int, names: Sequence[str] | None) -> str:
    return names[index] if names is not None else f"weights[{index}]"


def check_weights(weights: Iterable[Tensor], names: Sequence[str] | None = None) -> list[Tensor]:
    """`weights` as a list, or the error that names the one that cannot be penalised (see `smooth_kernel_penalty`)."""
    if isinstance(weights, Tensor):
        raise TypeError("weights: expected a sequence of tensors, found one tensor; pass [weight]")
    checked = list(weights)
    if not checked:
        raise ValueError("weights: expected at least one tensor, found none")
    if names is not None and len(names) != len(checked):
        raise ValueError(f"names: expected {len(checked)}, one a weight; found {len(names)}")
    for index, weight in enumerate(checked):
        _check_weight(weight, weight_name(index, names))
    kinds = {w.device.type: index for index, w in enumerate(checked)}
    if len(kinds) > 1:
        (kind, one), (other, two) = itertools.islice(kinds.items(), 2)
        raise ValueError(
            f"weights must be on one kind of device; found {weight_name(one, names)} on {kind} and "
            f"{weight_name(two, names)} on {other}: move the model to one device first"
        )
    seen: dict[int, int] = {}
    for index, weight in enumerate(checked):
        before = seen.setdefault(id(weight), index)
        if before != index:
            raise ValueError(
                f"{weight_name(before, names)} and {weight_name(index, names)} are the same tensor: "
                "give every weight once, or its penalty counts twice"
            )
    return checked


def _check_weight(weight: object, name: str) -> None:
    if not isinstance(weight, Tensor):
        raise TypeError(f"{name}: expected a tensor, found {type(weight).__name__}")
    if isinstance(weight, torch.nn.UninitializedParameter):
        raise ValueError(f"{name}: not initialised yet; run one batch through the lazy module first")
    if weight.layout != torch.strided or weight.is_quantized:
        found = "a quantized tensor" if weight.is_quantized else f"layout {weight.layout}"
        raise TypeError(f"{name}: expected a dense tensor, found {found}; dequantize or densify it first")
    if weight.dtype not in DTYPES:
        expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"{name}: expected dtype {expected}; found {weight.dtype}")
    if not 3 <= weight.dim() <= 5:
        raise ValueError(
            f"{name}: expected a conv weight (A, B, *spatial) with 1 to 3 spatial dimensions, "
            f"found shape {tuple(weight.shape)}"
        )


def check_coefficients(coefficients: Sequence[float] | Tensor | None, count: int) -> Tensor:
    """`coefficients` as a float64 CPU tensor of `count` finite numbers."""
    if coefficients is None:
        return torch.ones(count, dtype=torch.float64, device="cpu")
    if isinstance(coefficients, Tensor) and coefficients.requires_grad:
        raise ValueError("coefficients: expected constants, found a tensor that requires grad; detach it")
    tensor = torch.as_tensor(coefficients, dtype=torch.float64, device="cpu")
    if tensor.shape != (count,):
        raise ValueError(f"coefficients: expected {count}, one a weight; found shape {tuple(tensor.shape)}")
    if not torch.compiler.is_compiling() and not bool(tensor.isfinite().all()):
        raise ValueError(f"coefficients: expected finite numbers, found {tensor.tolist()}")
    return tensor.contiguous()
