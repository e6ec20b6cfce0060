"""What is installed, and whether it computes the right numbers here."""

from __future__ import annotations

import platform

import torch

from skreg import native, reference
from skreg._version import __version__
from skreg._weights import DTYPES
from skreg.options import PenaltyOptions
from skreg.penalty import penalty

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


def build_report() -> dict[str, object]:
    """Versions, and how the native operators were built; for an operator that is missing, why."""
    report: dict[str, object] = {
        "skreg": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    cpu, cuda = native.cpu_module, native.cuda_module
    if cpu is None:
        report["CPU operator"] = f"missing, plain PyTorch is used: {native.cpu_error}"
    else:
        report["CPU operator"] = f"{cpu.compiler}, built with torch {cpu.built_with_torch}"
        report["ABI"] = f"LibTorch stable ABI, torch {cpu.abi_target} and later"
        report["SIMD"] = f"{cpu.simd_level()} (this processor runs {', '.join(cpu.simd_levels())})"
    if cuda is None:
        report["CUDA operator"] = f"missing: {native.cuda_error}"
    else:
        report["CUDA operator"] = f"CUDA {cuda.cuda_version}, built with torch {cuda.built_with_torch}"
        report["architectures"] = cuda.architectures
        report["tensors a launch"] = cuda.records_per_launch
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            report[f"cuda:{index}"] = f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}"
    return report


def self_test() -> list[tuple[str, bool, str]]:
    """Value and gradient on every device and dtype against float64: ``(what, passed, detail)`` for each."""
    devices = ["cpu"] if native.cpu_module is not None else []
    if native.cuda_module is not None and torch.cuda.is_available():
        devices += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return [_test_one(device, dtype) for device in devices for dtype in DTYPES]


def _test_one(device: str, dtype: torch.dtype) -> tuple[str, bool, str]:
    name = f"{device} {str(dtype).removeprefix('torch.')}"
    if device.startswith("cuda") and (reason := native.missing_architecture(torch.device(device).index)):
        return name, False, reason
    generator = torch.Generator().manual_seed(0)
    weights = [
        (torch.randn(shape, generator=generator) * 0.15).to(dtype)
        for shape in ((19, 5, 3, 3), (6, 3, 5, 5), (2, 3, 7), (2, 2, 3, 2, 4))
    ]
    options, coefficients = PenaltyOptions(), torch.tensor([1.0, 0.5, -2.0, 1.0], dtype=torch.float64)
    try:
        leaves = [w.to(device, copy=True).requires_grad_() for w in weights]
        value = penalty(leaves, coefficients, options)
        gradients = torch.autograd.grad(value, leaves)
    except Exception as error:  # whatever is wrong with an installation is what this is here to tell
        return name, False, f"{type(error).__name__}: {error}"
    exact = [w.double().requires_grad_() for w in weights]
    expected = reference.weighted_sum(exact, coefficients, options)
    difference = abs(value.item() - expected.item()) / abs(expected.item())
    for gradient, right in zip(gradients, torch.autograd.grad(expected, exact), strict=True):
        error_here = (gradient.cpu().double() - right).abs().max() / right.abs().max()
        difference = max(difference, float(error_here))
    return name, difference < TOLERANCE[dtype], f"largest relative error {difference:.1e}"
