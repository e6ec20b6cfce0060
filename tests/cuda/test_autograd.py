"""`skreg.smooth_kernel_penalty` on cuda tensors, as users call it."""

from __future__ import annotations

import pytest
import torch

import skreg
from skreg import native, reference
from skreg.options import PenaltyOptions
from skreg.penalty import penalty

pytestmark = pytest.mark.usefixtures("cuda")
OPTIONS = [{}, {"exponentiate": "layer", "max_exponent": 1.0}, {"normalize": "divide", "reduction": "mean"}]


def make(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2, 3, 3), (2, 2, 5, 5), (2, 1, 7, 7), (2, 2, 4), (1, 2, 2, 3, 2)]
    cpu = [torch.randn(s, generator=generator, dtype=torch.float64).mul_(0.2).to(dtype) for s in shapes]
    return [w.cuda().requires_grad_() for w in cpu]


def test_the_native_operator_is_used():
    assert native.supports("cuda")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_value_gradient_and_second_derivative(dtype, options):
    weights = make(dtype)
    total = skreg.smooth_kernel_penalty(weights, **options)
    other = [w.detach().cpu().double().requires_grad_() for w in weights]
    wanted = reference.smooth_kernel_penalty(other, **options)
    tolerance = {"rtol": 1e-10, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-5}
    torch.testing.assert_close(total.cpu().double(), wanted, **tolerance)

    def derivatives(value, leaves):
        first = torch.autograd.grad(3 * value, leaves, create_graph=True)
        norm = sum(g.square().sum() for g in first)
        return [g.detach().cpu().double() for g in (*first, *torch.autograd.grad(norm, leaves))]

    for found, want in zip(derivatives(total, weights), derivatives(wanted, other), strict=True):
        torch.testing.assert_close(
            found, want, rtol=tolerance["rtol"], atol=tolerance["atol"] * float(want.abs().max())
        )


def test_backward_twice_and_accumulation():
    weights = make(torch.float32)
    total = skreg.smooth_kernel_penalty(weights)
    total.backward(retain_graph=True)
    first = [w.grad.clone() for w in weights]
    (2 * total).backward()
    for weight, gradient in zip(weights, first, strict=True):
        torch.testing.assert_close(weight.grad, 3 * gradient)


def test_one_launch_for_the_forward_call_and_one_for_the_backward_call(emulator):
    weights = make(torch.float32)
    with emulator.record() as forward:
        total = skreg.smooth_kernel_penalty(weights)
    with emulator.record() as backward:
        total.backward()
    assert len(forward.launches) == 1
    assert len(backward.launches) == 1  # multiplies by the upstream gradient, or finds that it is 1
    assert not forward.synchronizations
    assert not backward.synchronizations


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_attached_regularizer_adds_to_the_gradients(dtype):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.Conv2d(5, 2, 5)).to("cuda", dtype)
    regularizer = skreg.SmoothKernelRegularizer(model, strength=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = {n: p.detach().cpu().double() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    handle = regularizer.attach(optimizer)
    optimizer.step()
    handle.remove()
    kernels = [before[n].requires_grad_() for n in regularizer.names]
    wanted = torch.autograd.grad(0.1 * reference.smooth_kernel_penalty(kernels), kernels)
    after = dict(model.named_parameters())
    for name, start, gradient in zip(regularizer.names, kernels, wanted, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(
            after[name].detach().cpu().double(), start - gradient, rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("decoupled", [False, True], ids=["coupled", "decoupled"])
def test_the_hook_waits_for_nothing_and_reads_no_learning_rate(decoupled, emulator):
    """The second step on: the first one looks at weights and learning rates to judge their stability."""
    nets = [torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.Conv2d(5, 2, 5)).to("cuda") for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = []
    for net, lr in zip(nets, (torch.tensor(0.1, device="cuda"), 0.1), strict=True):
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizers.append(torch.optim.Adam(net.parameters(), lr=lr, capturable=True))
        skreg.SmoothKernelRegularizer(net, strength=0.1).attach(optimizers[-1], decoupled=decoupled)
        optimizers[-1].step()
    with emulator.record() as second:
        optimizers[0].step()
    assert not second.synchronizations
    optimizers[1].step()
    for found, wanted in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_opcheck():
    weights = [w.detach() for w in make(torch.float32)]
    ones, options = torch.ones(len(weights), dtype=torch.float64), PenaltyOptions().native()
    scale = torch.tensor(2.0, device="cuda")
    tests = ("test_schema", "test_faketensor")
    zeros = [torch.zeros_like(w) for w in weights]
    for op, arguments in {
        torch.ops.skreg.value: (weights, ones, *options),
        torch.ops.skreg.value_and_gradients: (weights, ones, *options),
        torch.ops.skreg.gradients: (weights, ones, scale, *options),
        torch.ops.skreg.scale_: (zeros, scale),
        torch.ops.skreg.hessian_vector: (weights, zeros, ones, scale, *options),
    }.items():
        torch.library.opcheck(op, arguments, test_utils=tests)


def test_compiled_without_graph_breaks():
    weights = make(torch.float32)
    ones = torch.ones(len(weights), dtype=torch.float64)
    compiled = torch.compile(penalty, backend="aot_eager", fullgraph=True)
    compiled(weights, ones, PenaltyOptions()).backward()
    found = [w.grad for w in weights]
    wanted = torch.autograd.grad(skreg.smooth_kernel_penalty(weights), weights)
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w)


def test_compiled_training_step_without_graph_breaks_and_recompiles():
    """A whole step with the penalty in its loss, on cuda tensors, over changed strengths."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 5), torch.nn.Flatten(), torch.nn.Linear(16, 5)
    ).to("cuda")
    regularizer = skreg.SmoothKernelRegularizer(model, strength=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    graphs = []

    def count_graphs(graph, example_inputs):
        graphs.append(graph)
        return aot_eager(graph, example_inputs)

    def loss(images, labels):
        return torch.nn.functional.cross_entropy(model(images), labels) + regularizer()

    aot_eager = torch._dynamo.lookup_backend("aot_eager")
    compiled = torch.compile(loss, backend=count_graphs, fullgraph=True)
    for step in range(3):
        regularizer.strength = 0.1 * (step + 1)
        images, labels = torch.rand(4, 3, 8, 8, device="cuda"), torch.randint(0, 5, (4,), device="cuda")
        wanted = torch.autograd.grad(loss(images, labels), list(model.parameters()))
        optimizer.zero_grad()
        compiled(images, labels).backward()
        for parameter, gradient in zip(model.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
        optimizer.step()
    assert len(graphs) == 1
