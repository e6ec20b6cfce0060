"""What the operators ask of the CUDA runtime: launches, streams, devices, graphs; and that nothing races."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from skreg.options import PenaltyOptions

pytestmark = pytest.mark.usefixtures("cuda")
ops = torch.ops.skreg
KERNEL = PenaltyOptions(max_exponent=3.0).native()
LAYER = PenaltyOptions(exponentiate="layer", max_exponent=3.0).native()
SHAPES = [(70, 4, 3, 3), (3, 2, 5, 5), (2, 3, 7, 7), (3, 4, 3), (2, 2, 2, 2), (2, 2, 11, 11), (0, 1, 3, 3)]


def entry_points(weights, options):
    """Every operator as a function without arguments, by name, with what it needs made beforehand."""
    ones = torch.ones(len(weights), dtype=torch.float64)
    scale = torch.tensor(2.0, device=weights[0].device)
    targets, vectors = [torch.zeros_like(w) for w in weights], [torch.ones_like(w) for w in weights]
    return {
        "value": lambda: ops.value(weights, ones, *options),
        "value_and_gradients": lambda: ops.value_and_gradients(weights, ones, *options),
        "gradients": lambda: ops.gradients(weights, ones, scale, *options),
        "add_gradients_": lambda: ops.add_gradients_(weights, targets, ones, scale, *options),
        "scale_": lambda: ops.scale_(targets, scale),
        "hessian_vector": lambda: ops.hessian_vector(weights, vectors, ones, scale, *options),
    }


def asked_for(record):
    return set(record.counts())


NAMES = ["value", "value_and_gradients", "gradients", "add_gradients_", "scale_", "hessian_vector"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [KERNEL, LAYER], ids=["kernel", "layer"])
def test_one_launch_and_nothing_else(options, name, emulator, make_weights):
    weights = make_weights(SHAPES) + make_weights(SHAPES, dtype=torch.bfloat16, layout="channels_last")
    call = entry_points(weights, options)[name]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), emulator.record() as r:
        call()
    assert len(r.launches) == 1
    assert {launch.stream for launch in r.launches} == {stream.cuda_stream}
    assert asked_for(r) <= {"launch", "malloc", "free"}
    assert all(malloc.torch for malloc in r.mallocs)
    assert all(launch.params_bytes <= 32764 for launch in r.launches)


@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (2, 1), (100, 1), (1000, 1), (3000, 3)])
def test_launches_of_many_weights(count, wanted, emulator, make_weights):
    weights = make_weights([(1, 1, 3, 3)] * count)
    for options in (KERNEL, LAYER):
        for name, call in entry_points(weights, options).items():
            with emulator.record() as r:
                call()
            assert len(r.launches) == (-(-count // 800) if name == "hessian_vector" else wanted), name
            assert asked_for(r) <= {"launch", "malloc", "free"}, name


def test_weights_of_all_different_shapes_share_launches(emulator, make_weights):
    weights = make_weights([(1, 1 + i, 3, 3) for i in range(400)])
    with emulator.record() as r:
        values = ops.value(weights, torch.ones(400, dtype=torch.float64), *KERNEL)[1]
    assert len(r.launches) <= 2
    one_by_one = [ops.value([w], torch.ones(1, dtype=torch.float64), *KERNEL)[1] for w in weights]
    assert torch.equal(values, torch.cat(one_by_one))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [KERNEL, LAYER], ids=["kernel", "layer"])
def test_no_races(options, name, emulator, make_weights):
    weights = make_weights(SHAPES) + make_weights(SHAPES[:5], dtype=torch.float16, layout="channels_last")
    with emulator.options(race=True, strict=True):
        entry_points(weights, options)[name]()
    torch.cuda.synchronize()


@pytest.mark.parametrize("options", [KERNEL, LAYER], ids=["kernel", "layer"])
def test_same_bits_whatever_the_schedule(options, emulator, make_weights):
    weights = make_weights([(90, 40, 3, 3), (40, 30, 5, 5), (30, 40, 2, 2), (4, 3, 21, 21)])
    want = [entry_points(weights, options)[name]() for name in NAMES]
    for seed, resident in ((1, 1), (2, 3), (3, None)):
        with emulator.options(seed=seed, resident=resident):
            found = [entry_points(weights, options)[name]() for name in NAMES]
        assert_equal(found, want)


def assert_equal(found, want):
    if isinstance(want, torch.Tensor):
        assert torch.equal(found, want)
    elif want is not None:
        assert len(found) == len(want)
        for f, w in zip(found, want, strict=True):
            assert_equal(f, w)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_same_bits_however_many_weights_are_in_the_call(dtype, make_weights):
    weights = make_weights([(64, 40, 3, 3), (30, 20, 5, 5), (7, 9, 2, 2), (3, 3, 33, 2)], dtype=dtype)
    others = make_weights([(5, 5, 3, 3)] * 40)
    many = others[:20] + weights + others[20:]
    ones = torch.ones(len(many), dtype=torch.float64)
    for options in (KERNEL, LAYER):
        _, values, gradients = ops.value_and_gradients(many, ones, *options)
        for i, weight in enumerate(weights, start=20):
            _, value, (gradient,) = ops.value_and_gradients([weight], ones[:1], *options)
            assert torch.equal(value, values[i : i + 1].to(value.dtype))
            assert torch.equal(gradient, gradients[i])
        assert_equal(ops.value_and_gradients(many, ones, *options), ops.value_and_gradients(many, ones, *options))


@pytest.mark.parametrize("options", [KERNEL, LAYER], ids=["kernel", "layer"])
def test_graph_capture_and_replay(options, make_weights):
    weights = make_weights(SHAPES)
    targets, ones = [torch.zeros_like(w) for w in weights], torch.ones(len(weights), dtype=torch.float64)
    vectors, scale = [torch.ones_like(w) for w in weights], torch.tensor(0.5, device="cuda")

    def step():
        total, values, gradients = ops.value_and_gradients(weights, ones, *options)
        ops.scale_(gradients, scale)
        ops.add_gradients_(weights, targets, ones, scale, *options)
        return total, values, gradients, ops.hessian_vector(weights, vectors, ones, scale, *options)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    for factor in (1.0, 0.5, -1.0):
        for weight, target in zip(weights, targets, strict=True):
            weight.mul_(factor)
            target.zero_()
        scale.fill_(factor + 1)
        graph.replay()
        torch.cuda.synchronize()
        accumulated = [t.clone() for t in targets]
        for target in targets:
            target.zero_()
        assert_equal(outputs, step())
        assert_equal(accumulated, targets)


def test_launches_on_several_streams_do_not_share_counters(make_weights):
    weights = make_weights([(80, 40, 3, 3), (20, 10, 5, 5)])
    ones = torch.ones(2, dtype=torch.float64)
    want = ops.value_and_gradients(weights, ones, *KERNEL)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    found = []
    for stream in streams * 8:
        with torch.cuda.stream(stream):
            found.append(ops.value_and_gradients(weights, ones, *KERNEL))
    torch.cuda.synchronize()
    for one in found:
        assert_equal(one, want)


TWO_DEVICES = """
import torch, skreg
from skreg import native
assert torch.cuda.device_count() == 2 and native.cuda_module is not None
from cuda_on_cpu import record
weights = [torch.full((6, 5, 3, 3), 0.1, device="cuda:1", requires_grad=True)]
here = [torch.full((4, 4, 5, 5), 0.2, device="cuda:0", requires_grad=True)]
with record() as r:
    skreg.smooth_kernel_penalty(weights).backward()
assert torch.cuda.current_device() == 0
assert {l.device for l in r.launches} == {1}, r.launches
ones = torch.ones(1, dtype=torch.float64)
options = skreg.options.PenaltyOptions().native()
with record() as r:
    torch.ops.skreg.scale_([weights[0].grad], torch.tensor(2.0, device="cuda:1"))
    torch.ops.skreg.hessian_vector(weights, [weights[0].grad], ones, None, *options)
assert [l.device for l in r.launches] == [1, 1]
try:
    torch.ops.skreg.value(here + weights, torch.ones(2, dtype=torch.float64), *options)
except RuntimeError as error:
    assert "one call works on one device" in str(error)
else:
    raise AssertionError("weights on two devices were accepted")
total = skreg.smooth_kernel_penalty(here + weights)
wanted = skreg.reference.smooth_kernel_penalty([w.detach().cpu() for w in here + weights])
torch.testing.assert_close(total.cpu(), wanted)
for decoupled in (False, True):
    nets = [torch.nn.ModuleList([torch.nn.Conv2d(3, 5, 3), torch.nn.Conv2d(5, 2, 5)]) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    nets[0][0].to("cuda:0")
    nets[0][1].to("cuda:1")
    for net in nets:
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        skreg.SmoothKernelRegularizer(net, strength=0.1).attach(optimizer, decoupled=decoupled)
        optimizer.step()
    for found, wanted in zip(nets[0].parameters(), nets[1].parameters()):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-5, atol=1e-6)
print("two devices are right")
"""


def run_python(code, **environment):
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_devices(emulator):
    done = run_python(TWO_DEVICES, CUDA_ON_CPU_DEVICES="2")
    assert "two devices are right" in done.stdout, done.stdout + done.stderr


WITHOUT_KERNELS = """
import warnings, torch, skreg
from skreg.self_test import self_test
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        weight = torch.full((2, 2, 3, 3), 0.1, device="cuda", requires_grad=True)
        skreg.smooth_kernel_penalty([weight]).backward()
ours = [str(w.message) for w in caught if "skreg" in str(w.message)]
assert len(ours) == 1 and "has no kernels for" in ours[0] and "compute capability 5.2" in ours[0], ours
assert "rebuild skreg with TORCH_CUDA_ARCH_LIST=5.2" in ours[0]
assert weight.grad.any()
assert all(passed == name.startswith("cpu") for name, passed, _ in self_test())
print("the missing kernels are named")
"""


def test_a_device_that_the_build_has_no_kernels_for(emulator):
    done = run_python(WITHOUT_KERNELS, CUDA_ON_CPU_SM="52")
    assert "the missing kernels are named" in done.stdout, done.stdout + done.stderr
