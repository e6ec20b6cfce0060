"""Bad input: each error names the thing, what was expected and what was found."""

import pytest
import torch

import skreg
from skreg import native, reference
from skreg.options import PenaltyOptions
from skreg.penalty import add_penalty_gradient_

GOOD = torch.zeros(2, 2, 3, 3)
BOTH = [skreg.smooth_kernel_penalty, reference.smooth_kernel_penalty]
needs_native = pytest.mark.skipif(native.cpu_module is None, reason="the native operator is not built")


@pytest.mark.parametrize("penalty", BOTH)
@pytest.mark.parametrize(
    ("weight", "error", "words"),
    [
        (
            torch.zeros(2, 2, 3, 3, dtype=torch.int64),
            TypeError,
            r"weights\[1\]: expected dtype .* found torch.int64",
        ),
        (torch.zeros(2, 2, 3, 3, dtype=torch.complex64), TypeError, r"weights\[1\].*complex64"),
        (torch.zeros(2, 2, 3, 3).to_sparse(), TypeError, r"weights\[1\]: expected a dense tensor.*sparse"),
        (torch.zeros(2, 3), ValueError, r"weights\[1\]: expected a conv weight .*\(2, 3\)"),
        (torch.zeros(1, 1, 1, 1, 1, 1), ValueError, r"weights\[1\]: expected a conv weight"),
        (torch.zeros(2, 2, 3, 3, device="meta"), ValueError, "one kind of device"),
        ([[1.0]], TypeError, r"weights\[1\]: expected a tensor, found list"),
        (GOOD, ValueError, r"weights\[0\] and weights\[1\] are the same tensor"),
    ],
    ids=["integers", "complex", "sparse", "matrix", "six dimensions", "devices", "list", "duplicate"],
)
def test_weights(penalty, weight, error, words):
    with pytest.raises(error, match=words):
        penalty([GOOD, weight])


@pytest.mark.filterwarnings("ignore:.*quant.*:Warning")
@pytest.mark.parametrize("penalty", BOTH)
def test_quantized(penalty):
    weight = torch.quantize_per_tensor(GOOD, 0.1, 0, torch.qint8)
    with pytest.raises(TypeError, match=r"weights\[0\]: expected a dense tensor, found a quantized tensor"):
        penalty([weight])


@pytest.mark.parametrize("penalty", BOTH)
def test_no_weights_and_one_tensor(penalty):
    with pytest.raises(ValueError, match="at least one tensor"):
        penalty([])
    with pytest.raises(TypeError, match=r"pass \[weight\]"):
        penalty(GOOD)


def test_lazy_parameter():
    with pytest.raises(ValueError, match="run one batch"):
        skreg.smooth_kernel_penalty([torch.nn.LazyConv2d(3, 3).weight])


@pytest.mark.parametrize("penalty", BOTH)
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"normalize": "square"},
            ValueError,
            "normalize: expected one of 'subtract', 'divide', None; found 'square'",
        ),
        ({"exponentiate": True}, ValueError, "exponentiate: expected one of"),
        ({"reduction": None}, ValueError, "reduction: expected one of 'sum', 'mean'; found None"),
        ({"connectivity": 4}, ValueError, "connectivity: expected one of 1, 2, 3; found 4"),
        ({"connectivity": 1.0}, TypeError, "connectivity"),
        ({"max_exponent": float("inf")}, ValueError, "max_exponent: expected a finite number"),
        ({"max_exponent": "10"}, TypeError, "max_exponent: expected a number"),
        ({"coefficients": [1.0, 2.0]}, ValueError, "coefficients: expected 1, one a weight"),
        ({"coefficients": [float("nan")]}, ValueError, "coefficients: expected finite numbers"),
    ],
    ids=str,
)
def test_options(penalty, options, error, words):
    with pytest.raises(error, match=words):
        penalty([GOOD], **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_named(value):
    weight = GOOD.clone()
    weight[0, 0, 1, 1] = value
    with pytest.raises(FloatingPointError, match=r"weights\[1\]: 1 of its 36 weights are nan or inf"):
        skreg.smooth_kernel_penalty([torch.ones(1, 1, 3, 3), weight])
    with pytest.raises(FloatingPointError, match=r"layer2\.conv: 1 of its 36"):
        skreg.smooth_kernel_penalty([torch.ones(1, 1, 3, 3), weight], names=["layer1.conv", "layer2.conv"])


def test_overflow_names_the_layer_its_exponent_and_the_ways_out():
    rough = torch.zeros(1, 1, 3, 3)
    rough[0, 0, 1, 1] = 6.0  # D = 144, E = 36
    with pytest.raises(FloatingPointError, match=r"weights\[1\].*exponent reached 108\.0; set max_exponent"):
        skreg.smooth_kernel_penalty([GOOD, rough])
    value = skreg.smooth_kernel_penalty([rough], max_exponent=10.0)
    assert float(value) == pytest.approx(2.718281828**10 * (1 + 98), rel=1e-5)
    assert float(skreg.smooth_kernel_penalty([rough], error_if_nonfinite=False)) == float("inf")


def test_layer_overflow_names_its_exponent():
    weight = torch.zeros(64, 1, 3, 3)
    weight[:, :, 1, 1] = 1.0
    with pytest.raises(FloatingPointError, match=r"exponent reached 192\.0"):
        skreg.smooth_kernel_penalty([weight], exponentiate="layer")


def add(weights, gradients):
    ones = torch.ones(len(weights), dtype=torch.float64)
    return add_penalty_gradient_(weights, gradients, ones, PenaltyOptions())


@needs_native
def test_gradients_that_share_memory_are_refused_and_left_alone():
    memory = torch.arange(90.0)
    one, two = memory[:36].view(2, 2, 3, 3), memory[36:72].view(2, 2, 3, 3)
    shifted = memory[18:54].view(2, 2, 3, 3)
    free = [torch.zeros(2, 2, 3, 3), torch.zeros(2, 2, 3, 3)]
    for weights, gradients, words in [
        ([free[0]], [free[0]], r"gradients\[0\] shares memory with weights\[0\]"),
        ([one, two], [free[0], shifted], r"gradients\[1\] shares memory with weights\[[01]\]"),
        (free, [one, shifted], r"gradients\[[01]\] shares memory with gradients\[[01]\]"),
        (free, [one, one], r"gradients\[[01]\] shares memory with gradients\[[01]\]"),
        (free[:1], [torch.zeros(1).expand(2, 2, 3, 3)], r"gradients\[0\]: its elements share memory"),
        (free[:1], [memory.as_strided((2, 2, 3, 3), (4, 4, 3, 1))], r"gradients\[0\]: its elements share memory"),
    ]:
        with pytest.raises(RuntimeError, match=words):
            add(weights, gradients)
    assert torch.equal(memory, torch.arange(90.0))
    assert not any(f.any() for f in free)


@needs_native
def test_gradients_side_by_side_are_fine():
    memory = torch.zeros(4 * 36)
    weights = [torch.full((2, 2, 3, 3), 0.1) for _ in range(4)]
    flat = [memory[36 * i : 36 * i + 36].view(2, 2, 3, 3) for i in range(2)]
    woven = memory[72:].view(2, 2, 2, 3, 3)  # two gradients that alternate in memory
    add(weights, [*flat, woven[:, 0], woven[:, 1]])
    assert torch.equal(flat[0], flat[1])
    torch.testing.assert_close(woven[:, 0], flat[0])  # of another layout, so added up in another order
    assert torch.equal(woven[:, 1], woven[:, 0])
    assert flat[0].any()


def test_weights_that_overlap_each_other_count_as_they_are_given():
    memory = torch.rand(54).requires_grad_()
    one, two = memory[:36].view(2, 2, 3, 3), memory[18:].view(2, 2, 3, 3)
    total = skreg.smooth_kernel_penalty([one, two])
    expected = skreg.smooth_kernel_penalty([one.clone()]) + skreg.smooth_kernel_penalty([two.clone()])
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(*[torch.autograd.grad(t, memory)[0] for t in (total, expected)])


@needs_native
@pytest.mark.parametrize(
    ("gradient", "words"),
    [
        (
            torch.zeros(2, 3, 3, 3),
            r"gradients\[0\]: expected the shape of weights\[0\], \(2, 2, 3, 3\); found \(2, 3, 3, 3\)",
        ),
        (torch.zeros(2, 2, 3, 3, dtype=torch.int32), r"gradients\[0\]: expected dtype .*found Int"),
    ],
    ids=["shape", "dtype"],
)
def test_gradients_of_another_shape_or_dtype(gradient, words):
    with pytest.raises(RuntimeError, match=words):
        add([GOOD.clone()], [gradient])


def test_negative_strides_are_torch_s_own_error():
    with pytest.raises(ValueError, match="negative"):
        torch.from_numpy(GOOD.numpy()[..., ::-1])  # torch has no such tensors; conj and neg views are of complex ones
    flipped = torch.rand(2, 2, 3, 3).flip(3)
    torch.testing.assert_close(skreg.smooth_kernel_penalty([flipped]), skreg.smooth_kernel_penalty([flipped.flip(3)]))
