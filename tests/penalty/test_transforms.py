"""What PyTorch may do with the penalty: compile, export, transform, fake and make deterministic."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._dynamo.backends.debugging import aot_eager
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import skreg
from skreg import native
from skreg.options import PenaltyOptions

needs_native = pytest.mark.skipif(native.cpu_module is None, reason="the native operator is not built")
WEIGHT = torch.randn(2, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.2


def penalty(weight):
    return skreg.smooth_kernel_penalty([weight])


def test_a_training_step_compiles_once_whatever_the_step_and_the_strength():
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(32, 5))
    reg = skreg.SmoothKernelRegularizer(model, 1e-2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    def loss(images, labels):
        return nn.functional.cross_entropy(model(images), labels) + reg()

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for step in range(4):
        reg.strength = 0.1 * (step + 1)
        images, labels = torch.rand(4, 3, 8, 8), torch.randint(0, 5, (4,))
        wanted = torch.autograd.grad(loss(images, labels), list(model.parameters()))
        optimizer.zero_grad()
        compiled(images, labels).backward()
        for parameter, gradient in zip(model.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
        optimizer.step()
    assert len(graphs) == 1


class Regularized(nn.Module):
    """A module that returns its penalty with its output."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.reg = skreg.SmoothKernelRegularizer(self.convolution, 0.5)

    def forward(self, images):
        return self.convolution(images), self.reg()


@needs_native
def test_a_module_that_holds_it_is_exported():
    module, images = Regularized(), torch.rand(2, 3, 8, 8)
    program = torch.export.export(module, (images,))
    assert any("skreg.value_and_gradients" in str(node.target) for node in program.graph.nodes)
    with torch.no_grad():
        module.convolution.weight.mul_(2)
        program.state_dict["convolution.weight"].copy_(module.convolution.weight)
    torch.testing.assert_close(program.module()(images), module(images))


def test_torch_func():
    leaf = WEIGHT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(penalty(leaf), leaf)
    torch.testing.assert_close(torch.func.jacrev(penalty)(WEIGHT), gradient)
    torch.testing.assert_close(torch.func.functional_call(Penalized(), {"weight": WEIGHT}, ()), penalty(WEIGHT))
    many = torch.stack([WEIGHT, -WEIGHT])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(penalty))(many), torch.stack([gradient, -gradient]))
    hessian = torch.autograd.functional.hessian(penalty, WEIGHT)
    torch.testing.assert_close(torch.func.hessian(penalty)(WEIGHT), hessian)
    with pytest.raises(NotImplementedError, match=r"use torch\.func\.hessian"):
        torch.autograd.functional.hessian(penalty, WEIGHT, vectorize=True)


class Penalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros_like(WEIGHT))

    def forward(self):
        return penalty(self.weight)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_forward_mode_is_not_taken_for_a_constant(requires_grad):
    leaf = WEIGHT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(penalty(leaf), leaf)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(WEIGHT.clone().requires_grad_(requires_grad), torch.ones_like(WEIGHT))
        tangent = forward_ad.unpack_dual(penalty(dual)).tangent
    torch.testing.assert_close(tangent.detach(), gradient.sum())


def test_deterministic_mode():
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for _ in range(2):
            leaf = WEIGHT.clone().requires_grad_()
            penalty(leaf).backward()
            results.append(leaf.grad)
        assert torch.equal(*results)
    finally:
        torch.use_deterministic_algorithms(False)


def test_more_elements_than_32_bits_count_under_fake_tensors():
    with FakeTensorMode():
        weight = torch.empty(1 << 17, 1 << 10, 5, 5, dtype=torch.bfloat16, requires_grad=True)
        assert weight.numel() > 2**31
        total = penalty(weight)
        total.backward(retain_graph=True)
        assert total.shape == ()
        assert total.dtype == torch.float32
        assert weight.grad.shape == weight.shape
        assert weight.grad.dtype == torch.bfloat16
        assert native.operators.value([weight], torch.ones(1, dtype=torch.float64), *PenaltyOptions().native())[
            1
        ].shape == (1,)


@needs_native
def test_more_elements_than_32_bits_count_by_arithmetic():
    kernel = torch.tensor([[0.1, 0.2, 0.1], [0.3, -0.2, 0.1], [0.0, 0.5, 0.2]]).view(1, 1, 3, 3)
    weight = kernel.expand((1 << 28) + 1, 1, 3, 3)  # one kernel over and over, so no memory
    assert weight.numel() > 2**31
    found = skreg.smooth_kernel_penalty([weight], exponentiate=None, reduction="mean")
    torch.testing.assert_close(found, skreg.smooth_kernel_penalty([kernel], exponentiate=None))


def test_a_device_without_operator_runs_the_reference_and_says_so_once():
    code = """
import warnings, torch, skreg
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        weight = torch.empty(4, 2, 3, 3, device="meta", requires_grad=True)
        skreg.smooth_kernel_penalty([weight]).backward()
        reg = skreg.SmoothKernelRegularizer(torch.nn.Conv2d(1, 1, 3, device="meta"))
        reg()
ours = [str(w.message) for w in caught if "skreg" in str(w.message)]
assert len(ours) == 1 and "no native operator for meta tensors. Plain PyTorch is used instead" in ours[0], ours
assert weight.grad.shape == weight.shape and weight.grad.device.type == "meta"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
