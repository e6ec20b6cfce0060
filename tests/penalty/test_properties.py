"""What must hold for all kernels (hypothesis): invariances, scaling, pairs counted once, agreement of all paths."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import skreg
from skreg import reference
from skreg.options import PenaltyOptions

normalizes = st.sampled_from(["subtract", "divide", None])
exponentiates = st.sampled_from(["kernel", "layer", None])
reductions = st.sampled_from(["sum", "mean"])
options = st.builds(
    PenaltyOptions,
    normalizes,
    exponentiates,
    reductions,
    st.integers(1, 3),
    st.one_of(st.none(), st.floats(-2, 3)),
)


@st.composite
def weights(draw, dimensions=st.integers(1, 3), smallest=0):
    shape = tuple(draw(st.integers(smallest, 4)) for _ in range(2))
    shape += tuple(draw(st.integers(smallest, 5)) for _ in range(draw(dimensions)))
    elements = st.floats(-0.5, 0.5).map(lambda x: round(x, 3))
    return torch.from_numpy(draw(hnp.arrays("float64", shape, elements=elements)))


def value(weight, options):
    return float(skreg.smooth_kernel_penalty([weight], **options.as_dict()))


def d(weight, connectivity=1):
    return value(weight, PenaltyOptions(None, None, connectivity=connectivity))


@given(weights(), options)
def test_native_reference_and_loop_agree(loop, weight, options):
    expected = loop(weight, options)
    assert value(weight, options) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    by_reference = reference.smooth_kernel_penalty([weight], **options.as_dict())
    assert float(by_reference) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(weights(smallest=1), options, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_narrow_dtypes_agree_with_float64_of_the_same_numbers(weight, options, dtype):
    weight = weight.to(dtype)
    expected = weight.double().requires_grad_()
    total = reference.smooth_kernel_penalty([expected], **options.as_dict())
    (gradient,) = torch.autograd.grad(total, expected)
    leaf = weight.clone().requires_grad_()
    ours = skreg.smooth_kernel_penalty([leaf], **options.as_dict())
    ours.backward()
    scale = max(1.0, abs(float(total)))
    # D / E of a kernel of tiny numbers amplifies rounding; E itself is what limits it.
    smallest = float(weight.double().flatten(2).square().sum(-1).add(1e-30).min())
    slack = 1 + (1e-3 / smallest if options.normalize == "divide" and smallest < 1e-3 else 0)
    assert float(ours) == pytest.approx(float(total), abs=1e-5 * scale * slack)
    precision = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    bound = precision * slack * max(float(gradient.abs().max()), 1e-2)
    if float(gradient.abs().max()) < 6e4:
        assert float((leaf.grad.double() - gradient).abs().max()) <= bound


@given(weights(smallest=1), st.floats(-3, 3), st.integers(1, 3))
def test_a_constant_leaves_d(weight, constant, connectivity):
    assert d(weight + constant, connectivity) == pytest.approx(d(weight, connectivity), rel=1e-9, abs=1e-9)


@given(weights(dimensions=st.integers(2, 3), smallest=1), options, st.data())
def test_flips_and_transposes_leave_r(weight, options, data):
    axes = list(range(2, weight.dim()))
    flipped = weight.flip(data.draw(st.lists(st.sampled_from(axes), unique=True)))
    transposed = weight.transpose(*data.draw(st.permutations(axes))[:2])
    expected = value(weight, options)
    assert value(flipped, options) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert value(transposed, options) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(weights(smallest=1), st.floats(-4, 4).filter(lambda x: abs(x) > 1e-2))
def test_d_and_e_scale_with_the_square_and_their_ratio_not_at_all(weight, factor):
    subtract, divide = PenaltyOptions(exponentiate=None), PenaltyOptions("divide", None)
    assert d(factor * weight) == pytest.approx(factor**2 * d(weight), rel=1e-9, abs=1e-12)
    assert value(factor * weight, subtract) == pytest.approx(factor**2 * value(weight, subtract), rel=1e-9, abs=1e-12)
    assert value(factor * weight, divide) == pytest.approx(value(weight, divide), rel=1e-9, abs=1e-12)


@given(st.integers(2, 9), st.integers(1, 9))
def test_each_pair_counts_once(height, width):
    checkerboard = torch.tensor([[(-1.0) ** (y + x) for x in range(width)] for y in range(height)])
    pairs = height * (width - 1) + width * (height - 1)
    assert d(checkerboard.view(1, 1, height, width)) == 4 * pairs


@given(weights(smallest=1), options)
def test_mean_is_the_sum_over_the_kernels(weight, options):
    if options.exponentiate == "layer":
        return
    both = {**options.as_dict(), "reduction": "sum"}, {**options.as_dict(), "reduction": "mean"}
    total, mean = (float(skreg.smooth_kernel_penalty([weight], **o)) for o in both)
    assert mean * weight.shape[0] * weight.shape[1] == pytest.approx(total, rel=1e-12, abs=1e-12)


@given(weights(smallest=1), st.floats(-1, 2))
def test_max_exponent_is_smooth_where_it_begins(weight, limit):
    options = PenaltyOptions(max_exponent=limit)
    score = reference.scores(weight.flatten(0, 1), options)
    expected = sum(math.exp(s) if s <= limit else math.exp(limit) * (1 + s - limit) for s in score.tolist())
    assert value(weight, options) == pytest.approx(expected, rel=1e-12)
    assert value(weight, options) <= value(weight, PenaltyOptions()) * (1 + 1e-12)
