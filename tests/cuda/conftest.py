"""The CUDA operators run where `cuda` tensors exist: on a GPU, or under cuda-on-cpu. Elsewhere they skip."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import pytest
import torch
from torch import Tensor

from skreg import native, reference
from skreg.options import PenaltyOptions

# Kinds of kernels: those compiled in, and generic ones of 1 to 3 dimensions, large, single and empty.
SHAPES = [
    (65, 9, 3, 3),
    (5, 6, 3),
    (9, 17, 5, 5),
    (4, 20, 7, 7),
    (1, 1, 3, 3),
    (6, 5, 2, 2),
    (3, 2, 1, 3),
    (7, 3, 4, 1),
    (2, 3, 3, 2, 3),
    (2, 2, 17, 11),
    (2, 1, 700),
    (1, 1, 1, 1),
    (2, 3, 1, 1),
    (0, 3, 3, 3),
    (3, 2, 0, 3),
]
GRADIENT_TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}
SUM_TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}


@pytest.fixture
def cuda() -> None:
    # Where cuda tensors are promised, as in CI, a skip would hide that nothing ran.
    give_up = pytest.fail if os.environ.get("SKREG_REQUIRE_CUDA") == "1" else pytest.skip
    if not torch.cuda.is_available():
        give_up("no cuda tensors here: run on a GPU, or under cuda-on-cpu")
    if native.cuda_module is None:
        give_up(f"skreg is built without CUDA ({native.cuda_error})")


@pytest.fixture
def emulator(cuda: None) -> Iterator[ModuleType]:
    """cuda-on-cpu, which sees what the runtime is asked for and checks every access."""
    try:
        import cuda_on_cpu
    except ImportError:
        pytest.skip("needs cuda-on-cpu, which sees what the CUDA runtime is asked for")
    if not cuda_on_cpu.active():
        pytest.skip("needs cuda-on-cpu, which sees what the CUDA runtime is asked for")
    with cuda_on_cpu.options():
        yield cuda_on_cpu


def _layout(weight: Tensor, layout: str) -> Tensor:
    """The same values with other strides."""
    if layout == "channels_last":
        last = torch.empty((weight.shape[0], *weight.shape[2:], weight.shape[1]), dtype=weight.dtype)
        return last.movedim(-1, 1).copy_(weight)
    if layout == "transposed":
        return weight.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "reversed_dims":
        return weight.permute(*range(weight.dim())[::-1]).contiguous().permute(*range(weight.dim())[::-1])
    if layout == "sliced":
        wide = torch.full(
            (weight.shape[0], weight.shape[1] * 2 + 1, *weight.shape[2:]), float("nan"), dtype=weight.dtype
        )
        view = wide[:, 1::2]
        return view.copy_(weight)
    return weight


def to_cuda(tensor: Tensor) -> Tensor:
    """The same on the device with the same strides and offset, so that views stay views."""
    base = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).cuda()
    return base.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


@pytest.fixture
def make_weights() -> Callable[..., list[Tensor]]:
    def make(
        shapes: Sequence[tuple[int, ...]] = SHAPES,
        dtype: torch.dtype = torch.float32,
        layout: str = "contiguous",
        seed: int = 0,
        size: float = 0.3,
    ) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        made = []
        for shape in shapes:
            elements = max(1, torch.Size(shape[2:]).numel())
            weight = torch.randn(shape, generator=generator, dtype=torch.float64) * size / elements**0.5
            made.append(to_cuda(_layout(weight.to(dtype), layout)))
        return made

    return make


class Expected:
    """Values, gradients and Hessian-vector products of the reference in float64, with autograd."""

    def __init__(self, weights: Sequence[Tensor], coefficients: Tensor, options: PenaltyOptions) -> None:
        self.weights = [w.detach().cpu().double().requires_grad_() for w in weights]
        penalties = torch.stack(reference.penalties(self.weights, options))
        self.values = penalties.detach()
        self._total = (penalties * coefficients).sum()
        self.total = self._total.detach()

    def gradients(self, create_graph: bool = False) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            self._total,
            self.weights,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )

    def hessian_vector(self, vectors: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        gradients = self.gradients(create_graph=True)
        slope = torch.stack([(g * v.cpu().double()).sum() for g, v in zip(gradients, vectors, strict=True)]).sum()
        if not slope.requires_grad:
            return slope, tuple(torch.zeros_like(w) for w in self.weights)
        products = torch.autograd.grad(slope, self.weights, allow_unused=True, materialize_grads=True)
        return slope.detach(), products


@pytest.fixture
def expected() -> type[Expected]:
    return Expected


@pytest.fixture
def assert_near() -> Callable[..., None]:
    """Near the reference as far as the dtype reaches, relative to the largest element."""

    def check(
        found: Sequence[Tensor] | Tensor, wanted: Sequence[Tensor] | Tensor, dtype: torch.dtype, kind: str
    ) -> None:
        tolerance = (GRADIENT_TOLERANCE if kind == "elements" else SUM_TOLERANCE)[dtype]
        if isinstance(found, Tensor):
            found, wanted = [found], [wanted]
        assert len(found) == len(wanted)
        for index, (f, w) in enumerate(zip(found, wanted, strict=True)):
            assert f.shape == w.shape
            largest = max(float(w.abs().max()), 1e-3) if w.numel() else 1.0
            torch.testing.assert_close(
                f.detach().cpu().double(),
                w.double(),
                rtol=tolerance,
                atol=tolerance * largest,
                msg=lambda m, i=index: f"tensor {i}: {m}",
            )

    return check
