"""Derivatives, and what autograd may do with the gradient that the forward call already made."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import skreg
from skreg import native, reference
from skreg.options import PenaltyOptions

OPTIONS = [
    PenaltyOptions(),
    PenaltyOptions("divide", "kernel", "mean", 2, 0.1),
    PenaltyOptions(None, None, "sum", 3),
    PenaltyOptions("subtract", "layer", "mean", 2),
    PenaltyOptions("divide", "layer", "sum", 1, 0.3),
    PenaltyOptions("divide", None, "sum", 1),
]
needs_native = pytest.mark.skipif(native.cpu_module is None, reason="the native operator is not built")


def weights():
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, 2, 3, 3), (1, 2, 4), (1, 2, 2, 3, 2), (3, 1, 5, 2)]
    made = [torch.randn(s, generator=generator, dtype=torch.float64) * 0.3 for s in shapes]
    made[0] = made[0].to(memory_format=torch.channels_last)
    return [w.requires_grad_() for w in made]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradcheck_and_gradgradcheck(options):
    def function(*ws):
        return skreg.smooth_kernel_penalty(ws, coefficients=[1.0, -0.5, 2.0, 1.0], **options.as_dict())

    assert gradcheck(function, weights())
    assert gradgradcheck(function, weights())


@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
def test_derivatives_above_the_second(options):
    def ours(w):
        return skreg.smooth_kernel_penalty([w], **options.as_dict())

    def plain(w):
        return reference.smooth_kernel_penalty([w], **options.as_dict())

    weight, vector = weights()[0].detach(), torch.randn(2, 2, 3, 3, dtype=torch.float64)
    expected = torch.autograd.functional.hvp(plain, weight, vector)[1]
    torch.testing.assert_close(torch.autograd.functional.hvp(ours, weight, vector, strict=True)[1], expected)
    third = [third_derivative(f, weight, vector) for f in (ours, plain)]
    torch.testing.assert_close(*third)


def third_derivative(function, weight, vector):
    leaf = weight.clone().requires_grad_()
    (g,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
    (h,) = torch.autograd.grad((g * vector).sum(), leaf, create_graph=True)
    return torch.autograd.grad((h * vector).sum() + 0 * leaf.sum(), leaf)[0]


@needs_native
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_second_derivatives_of_many_kernels(level, dtype, channels_last):
    generator = torch.Generator().manual_seed(0)
    for shape, options in itertools.product([(40, 4, 3, 3), (3, 11, 5, 5), (1, 9, 2, 7)], OPTIONS):
        weight, vector = (torch.randn(shape, generator=generator).to(dtype) * 0.2 for _ in range(2))
        if channels_last:
            weight = weight.contiguous(memory_format=torch.channels_last)
        products = []
        for penalty, w in ((skreg.smooth_kernel_penalty, weight), (reference.smooth_kernel_penalty, weight.double())):
            leaf = w.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(penalty([leaf], **options.as_dict()), leaf, create_graph=True)
            products.append(torch.autograd.grad((gradient * vector.to(w.dtype)).sum(), leaf)[0])
        found, expected = products
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4
        assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max(), (shape, options)


@needs_native
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_opcheck(options):
    ws = [w.detach() for w in weights()]
    c = torch.ones(len(ws), dtype=torch.float64)
    scale = torch.tensor(0.5, dtype=torch.float64)
    encoded = options.native()
    ops = torch.ops.skreg
    torch.library.opcheck(ops.value.default, (ws, c, *encoded))
    torch.library.opcheck(ops.value_and_gradients.default, (ws, c, *encoded))
    torch.library.opcheck(ops.gradients.default, (ws, c, scale, *encoded))
    torch.library.opcheck(ops.add_gradients_.default, (ws, [w.clone() for w in ws], c, scale, *encoded))
    torch.library.opcheck(ops.hessian_vector.default, (ws, [w.clone() for w in ws], c, scale, *encoded))
    torch.library.opcheck(ops.scale_.default, ([w.clone() for w in ws], scale))


@needs_native
def test_grad_takes_the_memory_of_the_forward_call():
    weight = (torch.randn(64, 32, 3, 3) * 0.1).requires_grad_()
    loss = skreg.smooth_kernel_penalty([weight])
    address = loss.grad_fn.gradients[0].data_ptr()
    loss.backward()
    assert weight.grad.data_ptr() == address


@pytest.mark.parametrize("factor", [1.0, 0.25, -3.0])
def test_second_backward_through_a_kept_graph(factor):
    expected = (torch.randn(5, 4, 3, 3, dtype=torch.float64) * 0.2).requires_grad_()
    weight = expected.detach().clone().requires_grad_()
    (reference.smooth_kernel_penalty([expected]) * factor).backward()
    loss = skreg.smooth_kernel_penalty([weight]) * factor
    loss.backward(retain_graph=True)
    torch.testing.assert_close(weight.grad, expected.grad)
    first = weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(weight.grad, 2 * first)


def test_weights_changed_between_forward_and_backward_are_noticed():
    weight = (torch.randn(4, 4, 3, 3) * 0.2).requires_grad_()
    loss = skreg.smooth_kernel_penalty([weight])
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_frozen_weights_count_and_get_no_gradient():
    frozen, free = torch.rand(2, 2, 3, 3), torch.rand(2, 2, 3, 3, requires_grad=True)
    value = skreg.smooth_kernel_penalty([frozen, free])
    value.backward()
    assert frozen.grad is None
    assert free.grad is not None
    alone = skreg.smooth_kernel_penalty([frozen]) + skreg.smooth_kernel_penalty([free])
    torch.testing.assert_close(value, alone)


def test_autocast_changes_nothing():
    weight = (torch.randn(8, 8, 3, 3) * 0.2).requires_grad_()
    plain = skreg.smooth_kernel_penalty([weight])
    with torch.autocast("cpu", torch.bfloat16):
        cast = skreg.smooth_kernel_penalty([weight])
        by_reference = reference.smooth_kernel_penalty([weight])
    assert torch.equal(plain, cast)
    torch.testing.assert_close(by_reference, plain, rtol=1e-5, atol=0)


def test_torch_func_takes_the_reference_path():
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64) * 0.2

    def f(w):
        return skreg.smooth_kernel_penalty([w])

    leaf = weight.clone().requires_grad_()
    f(leaf).backward()
    torch.testing.assert_close(torch.func.grad(f)(weight), leaf.grad)
    stacked = torch.stack([weight, 2 * weight])
    torch.testing.assert_close(torch.func.vmap(f)(stacked), torch.stack([f(weight), f(2 * weight)]))


@needs_native
def test_the_bits_do_not_depend_on_threads_or_company():
    generator = torch.Generator().manual_seed(0)
    ws = [torch.randn(s, generator=generator) * 0.1 for s in [(300, 130, 3, 3), (64, 64, 5, 5), (7, 9, 3, 3)]]
    for options in (PenaltyOptions(), PenaltyOptions("divide", "layer", "mean")):
        encoded = options.native()
        c = torch.ones(len(ws), dtype=torch.float64)
        torch.set_num_threads(1)
        total, values, gradients = native.operators.value_and_gradients(ws, c, *encoded)
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            t, v, g = native.operators.value_and_gradients(ws, c, *encoded)
            assert torch.equal(t, total)
            assert torch.equal(v, values)
            assert all(map(torch.equal, g, gradients))
        for i, w in enumerate(ws):
            _, v, g = native.operators.value_and_gradients([w], c[:1], *encoded)
            assert torch.equal(v[0], values[i])
            assert torch.equal(g[0], gradients[i])


@needs_native
def test_results_larger_than_the_caches_are_written_around_them():
    weight = torch.randn(900, 901, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.1  # 29 MB, an odd count
    c, encoded = torch.ones(1, dtype=torch.float64), PenaltyOptions().native()
    (whole,) = native.operators.gradients([weight], c, None, *encoded)
    for part in (slice(None, 450), slice(450, None)):
        (gradient,) = native.operators.gradients([weight[part]], c, None, *encoded)
        assert torch.equal(whole[part], gradient)


@needs_native
def test_small_and_large_kernels_in_one_call():
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 8, 16, 16), (2, 1, 17, 17), (70, 3, 251), (1, 2, 400)]
    ws = [torch.randn(s, generator=generator) * 0.02 for s in shapes]
    c, encoded = torch.ones(len(ws), dtype=torch.float64), PenaltyOptions().native()
    together = native.operators.gradients(ws, c, None, *encoded)
    for weight, gradient in zip(ws, together):
        assert torch.equal(native.operators.gradients([weight], c[:1], None, *encoded)[0], gradient)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_without_a_graph_break(backend):
    reg_weight = (torch.randn(4, 3, 3, 3) * 0.2).requires_grad_()

    def direct(w):
        return 0.5 * skreg.smooth_kernel_penalty([w, w * 2])

    eager = direct(reg_weight)
    (expected,) = torch.autograd.grad(eager, reg_weight)
    compiled = torch.compile(direct, fullgraph=True, backend=backend)
    value = compiled(reg_weight)
    (gradient,) = torch.autograd.grad(value, reg_weight)
    torch.testing.assert_close(value, eager)
    torch.testing.assert_close(gradient, expected)


def test_batched_gradients():
    weight = (torch.randn(2, 2, 3, 3, dtype=torch.float64) * 0.2).requires_grad_()
    loss = skreg.smooth_kernel_penalty([weight])
    (once,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (many,) = torch.autograd.grad(loss, weight, torch.tensor([1.0, -2.0], dtype=torch.float64), is_grads_batched=True)
    torch.testing.assert_close(many, torch.stack([once, -2 * once]))
