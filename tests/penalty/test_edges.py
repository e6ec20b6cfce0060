"""What lies around a weight is not read into its results nor written over; what is not finite stays where it is."""

import pytest
import torch

from skreg import native, reference
from skreg.options import PenaltyOptions
from skreg.penalty import add_penalty_gradient_

pytestmark = pytest.mark.skipif(native.cpu_module is None, reason="the native operator is not built")
COUNTS = [1, 3, 4, 7, 8, 9, 16, 17, 63, 64, 65, 72, 200]
OPTIONS = [
    PenaltyOptions(),
    PenaltyOptions(exponentiate=None),
    PenaltyOptions(normalize=None),
    PenaltyOptions("divide"),
]


def amid(shape, offset, dtype, filler, channels_last=False):
    """A view of `shape` that starts `offset` elements into a row of `filler`, and the row."""
    outer, inner, *spatial = shape
    count = torch.Size(shape).numel()
    row = torch.full((offset + count + 64,), filler, dtype=dtype)
    piece = row[offset : offset + count]
    view = piece.view(outer, *spatial, inner).movedim(-1, 1) if channels_last else piece.view(shape)
    return view, row


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"], indirect=True)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("size", [3, 5])
def test_only_the_weight_counts(level, channels_last, dtype, size):
    for index, count in enumerate(COUNTS):
        options, offset = OPTIONS[index % len(OPTIONS)], index % 5
        shape = (1, count, size, size)
        weight, _ = amid(shape, offset, dtype, float("nan"), channels_last)
        generator = torch.Generator().manual_seed(count)
        weight.copy_(torch.randn(shape, generator=generator) * 0.2)
        gradient, row = amid(shape, offset, dtype, 7.0, channels_last)
        gradient.zero_()
        add_penalty_gradient_([weight], [gradient], torch.ones(1, dtype=torch.float64), options)
        wide = weight.double().requires_grad_()
        value = reference.smooth_kernel_penalty([wide], **options.as_dict())
        (expected,) = torch.autograd.grad(value, wide)
        tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 8e-3}[dtype]
        assert (gradient.double() - expected).abs().max() <= tolerance * expected.abs().max(), (count, options)
        outside = torch.cat([row[:offset], row[offset + weight.numel() :]])
        assert torch.equal(outside, torch.full_like(outside, 7.0)), (count, options)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"], indirect=True)
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_kernel_that_is_not_finite_leaves_its_neighbours_alone(level, bad, options):
    weight = torch.randn(1, 100, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.2
    c = torch.ones(1, dtype=torch.float64)
    (clean,) = native.operators.gradients([weight], c, None, *options.native())
    weight[0, 41, 1, 1] = bad
    (gradient,) = native.operators.gradients([weight], c, None, *options.native())
    others = torch.arange(100) != 41
    assert torch.equal(gradient[0, others], clean[0, others])
    assert not gradient[0, 41].isfinite().all()


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"], indirect=True)
def test_smooth_kernels_keep_an_accurate_difference(level):
    """D of kernels that are nearly constant, where E is a million times as large."""
    ramp = 1 + 1e-3 * torch.arange(9, dtype=torch.float32).view(3, 3)
    weight = ramp.expand(8, 8, 3, 3).contiguous()
    options = PenaltyOptions(normalize=None, exponentiate=None)
    total, _ = native.operators.value([weight], torch.ones(1, dtype=torch.float64), *options.native())
    expected = reference.smooth_kernel_penalty([weight.double()], normalize=None, exponentiate=None)
    assert float(total) == pytest.approx(float(expected), rel=1e-6)
