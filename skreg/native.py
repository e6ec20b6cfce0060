"""The compiled operators: loading them, and what torch must know of them to trace and compile."""

from __future__ import annotations

import functools
import importlib
import re
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

OLDEST_TORCH = (2, 10)  # the stable ABI that the operators are compiled for: TARGET_VERSION in setup.py
_BUILD_HELP = "reinstall skreg where a C++ compiler is found (`python -m skreg` shows what is installed)"


def check_torch_version(version: str) -> None:
    """Raise ImportError when this torch is older than the operators' ABI."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise ImportError(
            f"skreg needs torch {oldest} or later, found {version}: pip install --upgrade 'torch>={oldest}'"
        )


check_torch_version(str(torch.__version__))


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


def supports(device: torch.device | str) -> bool:
    """Whether the native operators run on tensors of this device; if not, a warning says why, once."""
    device = torch.device(device)
    module = {"cpu": cpu_module, "cuda": cuda_module}.get(device.type)
    if torch.compiler.is_compiling():
        return module is not None
    reason = ""
    if device.type == "cpu" and module is None:
        reason = f"the native operator could not be loaded ({cpu_error}); {_BUILD_HELP}"
    elif device.type == "cuda" and module is None:
        reason = f"the CUDA operator could not be loaded ({cuda_error}); {_BUILD_HELP}"
    elif device.type == "cuda":
        reason = missing_architecture(device.index)
    elif module is None:
        reason = f"there is no native operator for {device.type} tensors"
    if reason:
        _say_fallback(reason)
    return not reason


@functools.cache
def _say_fallback(reason: str) -> None:
    warnings.warn(
        f"skreg: {reason}. Plain PyTorch is used instead: the same result, many times slower.",
        RuntimeWarning,
        stacklevel=4,
    )


@functools.cache
def missing_architecture(index: int | None) -> str:
    """Why the CUDA operator has no kernels for this device, or an empty text when it has."""
    if cuda_module is None:
        return ""
    major, minor = torch.cuda.get_device_capability(index)
    if runs_on(cuda_module.architectures, (major, minor)):
        return ""
    return (
        f"the CUDA operator was built for {cuda_module.architectures} and has no kernels for "
        f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}; "
        f"rebuild skreg with TORCH_CUDA_ARCH_LIST={major}.{minor}"
    )


def runs_on(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether a build for `architectures`, such as ``"8.0;9.0+PTX"``, has code for a device of `capability`.

    Machine code runs on later minor versions of its major version, PTX on everything later. Names that are no
    version, such as Ampere, are taken to fit.
    """
    for entry in re.split(r"[;,\s]+", architectures.strip()):
        version = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        if version is None:
            return True
        built = (int(version[1]), int(version[2]))
        if built == capability or (version[4] and not version[3] and built < capability):
            return True
        if version[3] != "a" and built[0] == capability[0] and built < capability:
            return True
    return False


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
