"""The definition as slow as it is clear, and the weights that the tests of the penalty are run on."""

import itertools
import math

import pytest
import torch

from skreg import native


def loop_penalty(weight, options):
    """R(W) in Python floats, by a loop over all pairs of positions of every kernel (paper, section 3)."""
    kernels = weight.detach().double().flatten(0, 1)
    positions = list(itertools.product(*(range(n) for n in kernels.shape[1:])))
    pairs = [
        (p, q)
        for p, q in itertools.combinations(positions, 2)
        if max(abs(a - b) for a, b in zip(p, q)) == 1 and sum(abs(a - b) for a, b in zip(p, q)) <= options.connectivity
    ]
    exponential = exponential_above(options.max_exponent)
    total = 0.0
    for kernel in kernels:
        d = sum(float(kernel[p] - kernel[q]) ** 2 for p, q in pairs)
        e = sum(float(kernel[p]) ** 2 for p in positions)
        score = {"subtract": d - e, "divide": d / e if e else 0.0, None: d}[options.normalize]
        total += exponential(score) if options.exponentiate == "kernel" else score
    if options.reduction == "mean":
        total /= max(len(kernels), 1)
    return exponential(total) if options.exponentiate == "layer" else total


def exponential_above(limit):
    def exponential(score):
        if limit is None or score <= limit:
            return math.exp(score)
        return math.exp(limit) * (1 + score - limit)

    return exponential


@pytest.fixture(scope="session")
def loop():
    return loop_penalty


needs_native = pytest.mark.skipif(native.cpu_module is None, reason="the native operator is not built")


@pytest.fixture
def level(request):
    """Runs a test at one SIMD level: parametrize indirectly with its name."""
    if native.cpu_module is None:
        pytest.skip("the native operator is not built")
    if request.param not in native.cpu_module.simd_levels():
        pytest.skip(f"this processor does not run {request.param}")
    before = native.cpu_module.simd_level()
    native.cpu_module.use_simd_level(request.param)
    yield request.param
    native.cpu_module.use_simd_level(before)


def laid_out(weight, layout):
    """The same values in another memory layout."""
    if layout == "channels_last":
        form = {4: torch.channels_last, 5: torch.channels_last_3d}.get(weight.dim())
        return weight.contiguous(memory_format=form) if form else weight
    if layout == "transposed":
        return weight.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "sliced":
        room = torch.zeros([2 * n for n in weight.shape], dtype=weight.dtype)
        view = room[tuple(slice(0, 2 * n, 2) for n in weight.shape)]
        view.copy_(weight)
        return view
    return weight.contiguous()


@pytest.fixture(scope="session")
def layout():
    return laid_out
