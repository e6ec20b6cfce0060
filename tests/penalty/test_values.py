"""Value and gradient of the native operator and of the reference, against loops and float64."""

import itertools
import math

import pytest
import torch

import skreg
from skreg import native, reference
from skreg.options import PenaltyOptions
from skreg.penalty import add_penalty_gradient_, penalties

SHAPES = [
    (17, 5, 3, 3), (3, 2, 5, 5), (2, 9, 7, 7), (6, 5, 1, 3), (6, 5, 3, 1), (6, 5, 3), (3, 4, 2, 3, 4), (3, 4, 3, 3, 3),
    (2, 3, 9), (70, 1, 3, 3), (1, 7, 3, 3), (3, 2, 1, 1), (33, 16, 4, 4), (2, 2, 17, 18), (1, 1, 2, 2), (5, 3, 1, 2),
]  # fmt: skip
SMALL = [s for s in SHAPES if math.prod(s) < 800]
OPTIONS = [
    PenaltyOptions(),
    PenaltyOptions("divide", "kernel", "mean", 2, 0.1),
    PenaltyOptions(None, None, "sum", 3),
    PenaltyOptions("subtract", "layer", "mean", 2),
    PenaltyOptions("divide", "layer", "mean", 1, 0.3),
    PenaltyOptions(None, "kernel", "mean", 1, 0.5),
    PenaltyOptions("divide", None, "sum", 1),
]
# Of value and gradient, relative to the largest of them: arithmetic is float32, storage may be narrower.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 8e-3, torch.float16: 2e-3}
needs_native = pytest.mark.skipif(native.cpu_module is None, reason="the native operator is not built")


def make(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = max(math.prod(shape[2:]), 1)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 0.5 / size**0.5).to(dtype)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_reference_equals_the_loop_over_pairs(shape, options, loop):
    weight = make(shape, torch.float64)
    expected = loop(weight, options)
    value = reference.smooth_kernel_penalty([weight], **options.as_dict())
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert float(skreg.smooth_kernel_penalty([weight], **options.as_dict())) == pytest.approx(expected, rel=1e-12)


def test_the_paper_formula_on_one_kernel():
    k = torch.tensor([[1.0, 2.0, 4.0], [0.0, 1.0, 0.0], [3.0, 3.0, 3.0]], dtype=torch.float64)
    across = 1 + 4 + 1 + 1 + 0 + 0
    down = 1 + 1 + 16 + 9 + 4 + 9
    value = skreg.smooth_kernel_penalty([k.view(1, 1, 3, 3)], exponentiate=None)
    assert float(value) == across + down - (1 + 4 + 16 + 1 + 27)


@needs_native
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"], indirect=True)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout_name", ["contiguous", "channels_last", "transposed", "sliced"])
def test_native_equals_float64(level, dtype, layout_name, layout):
    for shape, options in itertools.product(SHAPES, OPTIONS):
        weight = layout(make(shape, dtype), layout_name)
        wide = weight.double().requires_grad_()
        expected = reference.smooth_kernel_penalty([wide], coefficients=[0.7], **options.as_dict())
        (gradient,) = torch.autograd.grad(expected, wide)
        leaf = weight.detach().requires_grad_()
        value = skreg.smooth_kernel_penalty([leaf], coefficients=[0.7], **options.as_dict())
        value.backward()
        case = f"{shape} {options}"
        assert leaf.grad.dtype == dtype
        assert float(value) == pytest.approx(float(expected), rel=max(TOLERANCE[dtype] / 2, 1e-6), abs=1e-6), case
        error = (leaf.grad.double() - gradient).abs().max() / gradient.abs().max().clamp(min=1e-3)
        assert float(error) < TOLERANCE[dtype], case


@pytest.mark.parametrize("penalty", [skreg.smooth_kernel_penalty, reference.smooth_kernel_penalty])
def test_a_limit_beyond_the_range_of_exp_changes_nothing(penalty):
    weight = make((4, 3, 3, 3), torch.float32)
    free, limited = (weight.clone().requires_grad_() for _ in range(2))
    penalty([free]).backward()
    penalty([limited], max_exponent=100.0).backward()  # exp(100) is infinite in float32
    assert torch.equal(limited.grad, free.grad)


def test_all_weights_in_one_call_of_mixed_dtypes():
    weights = [make((4, 3, 3, 3), d, i) for i, d in enumerate(TOLERANCE)] + [make((2, 2, 5), torch.float32, 9)]
    factors = [1.0, -2.0, 0.5, 3.0, 0.0]
    leaves = [w.clone().requires_grad_() for w in weights]
    value = skreg.smooth_kernel_penalty(leaves, coefficients=factors)
    assert value.dtype == torch.float64
    value.backward()
    single = [float(skreg.smooth_kernel_penalty([w])) for w in weights]
    assert float(value) == pytest.approx(sum(f * s for f, s in zip(factors, single)), rel=1e-6)
    for leaf, weight, factor in zip(leaves, weights, factors):
        alone = weight.clone().requires_grad_()
        skreg.smooth_kernel_penalty([alone], coefficients=[factor]).backward()
        assert torch.equal(leaf.grad, alone.grad)
    assert penalties(weights, PenaltyOptions()).tolist() == pytest.approx(single, rel=1e-6)


def test_value_is_float32_unless_a_weight_is_wider():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert skreg.smooth_kernel_penalty([make((2, 2, 3, 3), dtype)]).dtype == torch.float32


@pytest.mark.parametrize("shape", [(0, 3, 3, 3), (2, 0, 3, 3), (2, 3, 0, 3), (2, 3, 3, 0)], ids=str)
def test_zero_size(shape, loop):
    for options in [*OPTIONS, PenaltyOptions(max_exponent=-1.0)]:  # S = 0 is above that
        weight = torch.zeros(shape, requires_grad=True)
        value = skreg.smooth_kernel_penalty([weight], **options.as_dict())
        value.backward()
        assert float(value) == pytest.approx(loop(weight, options)), options
        assert weight.grad.shape == shape


def test_one_element():
    weight = torch.full((1, 1, 1), 0.5, dtype=torch.float64, requires_grad=True)
    value = skreg.smooth_kernel_penalty([weight])
    value.backward()
    assert float(value) == pytest.approx(2.718281828**-0.25)
    assert float(weight.grad) == pytest.approx(-2 * 0.5 * 2.718281828**-0.25)


def test_kernels_of_zeros_have_no_gradient_under_divide():
    weight = torch.zeros(2, 2, 3, 3)
    weight[0, 0] = torch.arange(9.0).view(3, 3)
    weight.requires_grad_()
    skreg.smooth_kernel_penalty([weight], normalize="divide").backward()
    assert torch.equal(weight.grad[0, 1], torch.zeros(3, 3))
    assert bool(weight.grad[0, 0].any())
    assert bool(weight.grad.isfinite().all())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("gradient_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout_name", ["contiguous", "channels_last", "transposed", "sliced"])
def test_adding_into_gradients(dtype, gradient_dtype, layout_name, layout):
    options = PenaltyOptions()
    weight = make((20, 7, 3, 3), dtype)
    gradient = layout(make(weight.shape, gradient_dtype, 5), layout_name)
    before = gradient.clone()
    factor = torch.tensor([0.3], dtype=torch.float64)
    values = add_penalty_gradient_([weight], [gradient], factor, options, scale=torch.tensor(2.0))
    wide = weight.double().requires_grad_()
    (expected,) = torch.autograd.grad(reference.weighted_sum([wide], factor * 2, options), wide)
    error = (gradient.double() - before.double() - expected).abs().max()
    assert float(error) < 2 * TOLERANCE[gradient_dtype] * float(expected.abs().max())
    assert float(values[0]) == pytest.approx(float(reference.layer_penalty(weight.double(), options)), rel=1e-4)
