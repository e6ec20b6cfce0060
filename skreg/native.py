"""The compiled operators: loading them, and what torch must know of them to trace and compile."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

_BUILD_HELP = "reinstall skreg where a C++ compiler is found (`python -m skreg` shows what is installed)"


def _load(name: str) -> tuple[ModuleType | None, str]:
    """The extension module `name` and an empty text, or None and the reason why it could not be loaded."""
    try:
        return importlib.import_module(f"skreg.{name}"), ""
    except ImportError as error:
        return None, str(error)


cpu_module, cpu_error = _load("_C")
if cpu_module is None:
    cuda_module, cuda_error = None, cpu_error
elif torch.version.cuda is None:
    cuda_module, cuda_error = None, "this torch is built without CUDA"
else:
    cuda_module, cuda_error = _load("_cuda")


class _Operators:
    """Our operators by name, as overloads: `torch.ops.skreg.value` looks its overload up anew in every call."""

    def __getattr__(self, name: str) -> Any:
        overload = getattr(torch.ops.skreg, name).default
        setattr(self, name, overload)
        return overload


operators = _Operators()


def supports(device_type: str) -> bool:
    """Whether the native operators run on tensors of this device type."""
    module = {"cpu": cpu_module, "cuda": cuda_module}.get(device_type)
    if module is None and not torch.compiler.is_compiling():
        _say_fallback(device_type)
    return module is not None


@functools.cache
def _say_fallback(device_type: str) -> None:
    if device_type == "cpu":
        reason = f"the native operator could not be loaded ({cpu_error}); {_BUILD_HELP}"
    elif device_type == "cuda":
        reason = f"the CUDA operator could not be loaded ({cuda_error}); {_BUILD_HELP}"
    else:
        reason = f"there is no native operator for {device_type} tensors"
    warnings.warn(
        f"skreg: {reason}. Plain PyTorch is used instead: the same result, many times slower.",
        RuntimeWarning,
        stacklevel=4,
    )


def result_dtype(weights: Sequence[Tensor]) -> torch.dtype:
    """float64 when one of the weights is, otherwise float32: the dtype of the penalty's value."""
    return torch.float64 if any(w.dtype == torch.float64 for w in weights) else torch.float32


Function = TypeVar("Function", bound=Callable[..., Any])


def _fake(name: str) -> Callable[[Function], Function]:
    """`torch.library.register_fake` of one of our operators, with a type."""
    return cast(Callable[[Function], Function], torch.library.register_fake(f"skreg::{name}"))


def _register_fakes() -> None:
    @_fake("value")
    def _(weights: list[Tensor], coefficients: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
        dtype = result_dtype(weights)
        return weights[0].new_empty((), dtype=dtype), weights[0].new_empty((len(weights),), dtype=dtype)

    @_fake("value_and_gradients")
    def _(weights: list[Tensor], coefficients: Tensor, *options: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
        dtype = result_dtype(weights)
        value, values = (
            weights[0].new_empty((), dtype=dtype),
            weights[0].new_empty((len(weights),), dtype=dtype),
        )
        return value, values, [torch.empty_like(w) for w in weights]

    @_fake("gradients")
    def _(weights: list[Tensor], coefficients: Tensor, scale: Tensor | None, *options: Any) -> list[Tensor]:
        return [torch.empty_like(w) for w in weights]

    @_fake("add_gradients_")
    def _(
        weights: list[Tensor],
        gradients: list[Tensor],
        coefficients: Tensor,
        scale: Tensor | None,
        *options: Any,
    ) -> Tensor:
        return weights[0].new_empty((len(weights),), dtype=result_dtype(weights))

    @_fake("scale_")
    def _(tensors: list[Tensor], scale: Tensor) -> None:
        return None

    @_fake("hessian_vector")
    def _(
        weights: list[Tensor],
        vectors: list[Tensor],
        coefficients: Tensor,
        scale: Tensor | None,
        *options: Any,
    ) -> tuple[Tensor, list[Tensor]]:
        return weights[0].new_empty((), dtype=result_dtype(weights)), [torch.empty_like(w) for w in weights]


if cpu_module is not None:
    _register_fakes()
