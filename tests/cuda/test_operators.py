"""Every CUDA operator against the reference in float64."""

from __future__ import annotations

import math
import os

import pytest
import torch

from skreg.options import PenaltyOptions

pytestmark = pytest.mark.usefixtures("cuda")
ops = torch.ops.skreg
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = ["contiguous", "channels_last", "transposed", "reversed_dims", "sliced"]
OPTIONS = [
    PenaltyOptions(),
    PenaltyOptions(connectivity=2, reduction="mean"),
    PenaltyOptions(normalize="divide", connectivity=3, max_exponent=1.0),
    PenaltyOptions(normalize=None, max_exponent=0.1),
    PenaltyOptions(exponentiate="layer", max_exponent=2.0),
    PenaltyOptions(exponentiate="layer", reduction="mean", normalize="divide"),
    PenaltyOptions(exponentiate=None, connectivity=2),
    PenaltyOptions(exponentiate=None, normalize="divide", reduction="mean"),
]


def coefficients_for(weights):
    return torch.linspace(-1, 2, len(weights), dtype=torch.float64)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_operators_and_options(dtype, options, make_weights, expected, assert_near):
    weights = make_weights(dtype=dtype)
    check_all(weights, dtype, options, expected, assert_near)


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[4]], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_operators_and_layouts(dtype, layout, options, make_weights, expected, assert_near):
    weights = make_weights(dtype=dtype, layout=layout)
    check_all(weights, dtype, options, expected, assert_near)


def check_all(weights, dtype, options, expected, assert_near):
    coefficients = coefficients_for(weights)
    want = expected(weights, coefficients, options)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    want_gradients = want.gradients()

    total, values = ops.value(weights, coefficients, *options.native())
    assert total.dtype == values.dtype == wide
    assert total.device == weights[0].device
    assert_near(values, want.values, dtype, "sums")
    assert_near(total, want.total, dtype, "sums")

    again, values_again, gradients = ops.value_and_gradients(weights, coefficients, *options.native())
    assert torch.equal(again, total)
    assert torch.equal(values_again, values)
    assert_near(gradients, want_gradients, dtype, "elements")
    for weight, gradient in zip(weights, gradients, strict=True):
        assert gradient.dtype == weight.dtype

    scale = torch.tensor(1.5, device="cuda")
    scaled = ops.gradients(weights, coefficients, scale, *options.native())
    assert_near(scaled, [1.5 * g for g in want_gradients], dtype, "elements")

    targets = [torch.full_like(w, 0.25) for w in weights]
    added = ops.add_gradients_(weights, targets, coefficients, scale.double(), *options.native())
    assert torch.equal(added, values)
    assert_near(targets, [0.25 + 1.5 * g for g in want_gradients], dtype, "elements")

    vectors = [torch.randn_like(w) for w in weights]
    slope, products = ops.hessian_vector(weights, vectors, coefficients, scale, *options.native())
    want_slope, want_products = want.hessian_vector(vectors)
    scatter = 20 * want_slope.abs() + sum(v.double().norm().cpu() for v in vectors)  # terms cancel
    assert abs(float(slope) - float(want_slope)) <= (1e-11 if dtype == torch.float64 else 1e-5) * float(scatter)
    assert_near(products, [1.5 * p for p in want_products], dtype, "elements")


def test_mixed_dtypes_and_shapes_in_one_call(make_weights, expected, assert_near):
    weights = [make_weights([(7, 5, 3, 3)], dtype=dtype, layout=layout)[0] for dtype in DTYPES for layout in LAYOUTS]
    coefficients = coefficients_for(weights)
    total, values, gradients = ops.value_and_gradients(weights, coefficients, *OPTIONS[0].native())
    want = expected(weights, coefficients, OPTIONS[0])
    assert total.dtype == torch.float64
    assert_near(values, want.values, torch.float32, "sums")
    for weight, gradient, wanted in zip(weights, gradients, want.gradients(), strict=True):
        assert_near(gradient, wanted, weight.dtype, "elements")


@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("grad_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_gradients_of_another_layout_and_dtype(dtype, grad_dtype, grad_layout, make_weights, expected, assert_near):
    shapes = [(9, 4, 3, 3), (3, 5, 7, 7), (4, 3, 2, 2), (2, 3, 3, 3, 3)]
    weights = make_weights(shapes, dtype=dtype)
    targets = make_weights(shapes, dtype=grad_dtype, layout=grad_layout, seed=1)
    before = [t.cpu().double() for t in targets]
    coefficients = coefficients_for(weights)
    ops.add_gradients_(weights, targets, coefficients, None, *OPTIONS[0].native())
    want = expected(weights, coefficients, OPTIONS[0]).gradients()
    coarser = max(dtype, grad_dtype, key=lambda d: torch.finfo(d).eps)
    narrow = coarser if coarser == grad_dtype else (torch.float32 if grad_dtype == torch.float64 else grad_dtype)
    if dtype == grad_dtype == torch.float64:
        narrow = torch.float64
    assert_near(targets, [b + w for b, w in zip(before, want, strict=True)], narrow, "elements")


SENTINEL = 7.0
GUARD = 32  # elements on both sides, a multiple of 16 bytes


class Guarded:
    """Copies of tensors that start some elements behind a 16-byte boundary, with sentinels on both sides."""

    def __init__(self, tensors, offset):
        self.memory, self.views = [], []
        for tensor in tensors:
            room = torch.full(
                (tensor.numel() + offset + 2 * GUARD,), SENTINEL, dtype=tensor.dtype, device=tensor.device
            )
            view = room[GUARD + offset : GUARD + offset + tensor.numel()].view(tensor.shape)
            assert view.data_ptr() % 16 == offset * tensor.element_size() % 16
            self.memory.append((room, GUARD + offset, tensor.numel()))
            self.views.append(view.copy_(tensor))

    def assert_untouched_around(self):
        for room, begin, count in self.memory:
            assert bool((room[:begin] == SENTINEL).all()), "wrote before an output"
            assert bool((room[begin + count :] == SENTINEL).all()), "wrote behind an output"


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[4]], ids=["kernel", "layer"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sentinels_and_every_offset_that_alignment_allows(dtype, options, make_weights, expected, assert_near):
    """Every operator, with all that it reads and what it is given to write at every offset from 16 bytes."""
    shapes = [(5, 13, 3, 3), (3, 7, 5, 5), (2, 5, 7, 7), (3, 5, 3), (3, 5, 2, 2)]
    sources = make_weights(shapes, dtype=dtype)
    coefficients, codes = coefficients_for(sources), options.native()
    directions = make_weights(shapes, dtype=dtype, seed=1)
    scale = torch.tensor(1.5, device="cuda")
    want = expected(sources, coefficients, options)
    gradients, (_, products) = want.gradients(), want.hessian_vector(directions)
    for offset in range(16 // sources[0].element_size()):
        inputs = Guarded(sources, offset), Guarded(directions, offset)
        weights, vectors = inputs[0].views, inputs[1].views

        assert_near(ops.value(weights, coefficients, *codes)[1], want.values, dtype, "sums")
        _, values, found = ops.value_and_gradients(weights, coefficients, *codes)
        assert_near(values, want.values, dtype, "sums")
        assert_near(found, gradients, dtype, "elements")
        found = ops.gradients(weights, coefficients, scale, *codes)
        assert_near(found, [1.5 * g for g in gradients], dtype, "elements")
        found = ops.hessian_vector(weights, vectors, coefficients, scale, *codes)[1]
        assert_near(found, [1.5 * p for p in products], dtype, "elements")

        target_offset = (offset + 1) % (16 // sources[0].element_size())  # aligned otherwise than the weights
        targets = Guarded([torch.full_like(s, 0.25) for s in sources], target_offset)
        ops.add_gradients_(weights, targets.views, coefficients, scale, *codes)
        assert_near(targets.views, [0.25 + 1.5 * g for g in gradients], dtype, "elements")
        before = [t.clone() for t in targets.views]
        ops.scale_(targets.views, scale)
        for view, start in zip(targets.views, before, strict=True):
            assert torch.equal(view, start * 1.5)

        targets.assert_untouched_around()
        for guarded, originals in zip(inputs, (sources, directions), strict=True):
            guarded.assert_untouched_around()
            for view, original in zip(guarded.views, originals, strict=True):
                assert torch.equal(view, original), "an input was written to"


@pytest.mark.parametrize("count", [1, 2, 100, 1000, 3000])
def test_many_weights(count, make_weights, expected, assert_near):
    shapes = [[(2, 3, 3, 3), (1, 2, 5, 5), (3, 1, 3), (2, 2, 2, 2)][i % 4] for i in range(count)]
    weights = make_weights(shapes)
    coefficients = coefficients_for(weights)
    total, values, gradients = ops.value_and_gradients(weights, coefficients, *OPTIONS[0].native())
    want = expected(weights, coefficients, OPTIONS[0])
    assert_near(values, want.values, torch.float32, "sums")
    assert abs(float(total) - float(want.total)) <= 1e-5 * float((want.values * coefficients).abs().sum())
    assert_near(gradients, want.gradients(), torch.float32, "elements")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_scale(layout, dtype, make_weights):
    tensors = make_weights(dtype=dtype, layout=layout)
    before = [t.clone() for t in tensors]
    ops.scale_(tensors, torch.tensor(-2.5, device="cuda"))
    for found, start in zip(tensors, before, strict=True):
        assert torch.equal(found, start * -2.5)
    ops.scale_(tensors, torch.tensor(1.0, device="cuda", dtype=torch.float64))
    for found, start in zip(tensors, before, strict=True):
        assert torch.equal(found, start * -2.5)


def test_scale_leaves_the_rest_of_a_strided_tensor(make_weights):
    memory = torch.arange(4 * 9 * 3 * 3, dtype=torch.float32, device="cuda").view(4, 9, 3, 3)
    before = memory.clone()
    ops.scale_([memory[:, 1::2]], torch.tensor(2.0, device="cuda"))
    assert torch.equal(memory[:, 1::2], before[:, 1::2] * 2)
    assert torch.equal(memory[:, ::2], before[:, ::2])


def test_nan_and_inf_stay_visible(make_weights):
    for size in (3, 7, 2):
        for bad in (math.nan, math.inf):
            weight = make_weights([(4, 3, size, size)])[0]
            weight[1, 2, 1, 0] = bad
            total, values, gradients = ops.value_and_gradients(
                [weight], torch.ones(1, dtype=torch.float64), *PenaltyOptions(normalize="divide").native()
            )
            assert not torch.isfinite(total)
            assert not torch.isfinite(values).any()
            assert bool(torch.isfinite(gradients[0][0]).all())
            assert not bool(torch.isfinite(gradients[0][1, 2]).any())


def test_a_kernel_of_zeros_has_no_gradient_when_divided():
    for size in (3, 5, 7, 2):
        weight = torch.zeros(3, 2, size, size, device="cuda")
        total, _, (gradient,) = ops.value_and_gradients(
            [weight], torch.ones(1, dtype=torch.float64), *PenaltyOptions(normalize="divide").native()
        )
        assert float(total) == 6
        assert not gradient.any()


@pytest.mark.parametrize("size", [3, 2])
def test_offsets_beyond_32_bits(size, make_weights, expected, assert_near):
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 8 << 30:
        pytest.skip("needs 8 GiB of free memory")
    row = (1 << 30) + 5
    memory = torch.empty(2 * row + 100, dtype=torch.float16, device="cuda")
    far_kernels = memory.as_strided((2, 1, size, size), (2 * row, size * size, size, 1), 32)
    far_rows = memory.as_strided((1, 2, 3, size), (1, 5, row, 1), 64)
    for weight in (far_kernels, far_rows):
        source = make_weights([tuple(weight.shape)], dtype=torch.float16)[0]
        weight.copy_(source)
        gradients = ops.gradients([weight], torch.ones(1, dtype=torch.float64), None, *OPTIONS[0].native())
        want = expected([source], torch.ones(1, dtype=torch.float64), OPTIONS[0]).gradients()
        assert_near(gradients, want, torch.float16, "elements")
        ops.add_gradients_([source], [weight], torch.ones(1, dtype=torch.float64), None, *OPTIONS[0].native())
        assert_near(weight, source.cpu().double() + want[0], torch.float16, "elements")


def test_errors_name_what_is_wrong(make_weights):
    weights = make_weights([(2, 2, 3, 3), (2, 2, 3, 3)])
    ones, options = torch.ones(2, dtype=torch.float64), OPTIONS[0].native()
    with pytest.raises(RuntimeError, match=r"weights\[0\]: expected 3 to 5 dimensions"):
        ops.value([weights[0][0, 0]], ones[:1], *options)
    with pytest.raises(RuntimeError, match="coefficients: expected a float64 CPU tensor of 2"):
        ops.value(weights, ones.cuda(), *options)
    with pytest.raises(RuntimeError, match=r"gradients\[1\]: expected the shape of weights\[1\]"):
        ops.add_gradients_(weights, [weights[0], weights[0][:1]], ones, None, *options)
    with pytest.raises(RuntimeError, match=r"gradients\[0\]: expected the device of weights\[0\]"):
        ops.add_gradients_(weights, [w.cpu() for w in weights], ones, None, *options)
    with pytest.raises(RuntimeError, match=r"gradients\[1\] shares memory with weights\[0\]"):
        ops.add_gradients_(weights, [torch.zeros_like(weights[0]), weights[0]], ones, None, *options)
    with pytest.raises(RuntimeError, match=r"gradients\[0\]: its elements share memory"):
        ops.add_gradients_(weights[:1], [weights[1][:, :1].expand(2, 2, 3, 3)], ones[:1], None, *options)
    with pytest.raises(RuntimeError, match="scale: expected one number on the device"):
        ops.gradients(weights, ones, torch.tensor(1.0), *options)
    with pytest.raises(RuntimeError, match="scale: expected dtype float32 or float64, found"):
        ops.gradients(weights, ones, torch.tensor(1, device="cuda"), *options)
    with pytest.raises(RuntimeError, match=r"weights\[0\]: expected dtype float32"):
        ops.value([w.int() for w in weights], ones, *options)
