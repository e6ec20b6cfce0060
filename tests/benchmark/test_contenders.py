from __future__ import annotations

import functools

import pytest
import torch

from skreg.benchmark import CONTENDERS, make_weights
from skreg.benchmark import contenders as module
from skreg.benchmark.cases import OPTIONS
from skreg.benchmark.contenders import COMPILED, Contender, count_bytes
from skreg.benchmark.measure import prepare
from skreg.options import PenaltyOptions

SHAPES = [(8, 3, 3, 3), (4, 8, 5, 5), (6, 2, 3, 3), (2, 3, 7, 7)]
CHECKED = [name for name, contender in CONTENDERS.items() if contender.checked and name != COMPILED]
MEANS = {
    "mean of kernels": PenaltyOptions(reduction="mean"),
    "mean of S": PenaltyOptions(exponentiate=None, reduction="mean"),
}


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("options", [*OPTIONS, *MEANS])
def test_contenders_compute_the_penalty_and_its_gradient(name, options):
    calls, notes = prepare([name], make_weights(SHAPES), {**OPTIONS, **MEANS}[options])
    assert list(calls) == [name]
    assert not notes


def test_compiled_contender_computes_the_penalty_and_its_gradient(monkeypatch):
    # Without code generation, which takes long; the graph is the same.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    calls, notes = prepare([COMPILED], make_weights(SHAPES), PenaltyOptions())
    assert list(calls) == [COMPILED]
    assert not notes


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_contenders_agree_in_every_format(name, dtype):
    weights = make_weights(SHAPES, dtype=dtype, channels_last=True)
    calls, _ = prepare([name], weights, PenaltyOptions())
    _, gradients = calls[name]()
    assert [gradient.dtype for gradient in gradients] == [CONTENDERS[name].dtype or dtype] * len(SHAPES)


@pytest.mark.parametrize("name", ["ours, add", "ours, autograd, add", "matrix, add"])
def test_adding_contenders_add(name):
    weights = make_weights(SHAPES)
    calls, _ = prepare([name], weights, PenaltyOptions())  # which calls once
    _, gradients = calls[name]()
    _, once = prepare(["ours"], weights, PenaltyOptions())[0]["ours"]()
    for gradient, single in zip(gradients, once, strict=True):
        torch.testing.assert_close(gradient, 2 * single)


@pytest.mark.parametrize("name", ["ours, autograd", "naive"])
def test_autograd_contenders_begin_each_call_without_gradients(name):
    calls, _ = prepare([name], make_weights(SHAPES), PenaltyOptions())
    first = [gradient.clone() for gradient in calls[name]()[1]]
    for gradient, again in zip(first, calls[name]()[1], strict=True):
        torch.testing.assert_close(gradient, again)


@pytest.mark.parametrize("name", ["copy, fresh memory", "copy, ready memory"])
def test_copies_copy(name):
    weights = make_weights(SHAPES)
    _, copies = CONTENDERS[name].prepare(weights, PenaltyOptions())()
    for weight, copy in zip(weights, copies, strict=True):
        assert torch.equal(weight, copy)
        assert weight.data_ptr() != copy.data_ptr()


def test_copy_to_ready_memory_keeps_its_memory_and_the_other_does_not():
    weights = make_weights(SHAPES)

    def places(call):
        results = [call()[1] for _ in range(2)]
        return [copies[0].data_ptr() for copies in results]

    first, second = places(CONTENDERS["copy, ready memory"].prepare(weights, PenaltyOptions()))
    assert first == second
    first, second = places(CONTENDERS["copy, fresh memory"].prepare(weights, PenaltyOptions()))
    assert first != second


def test_gradients_of_autograd_alone_are_not_copied():
    weights = make_weights(SHAPES)
    call = CONTENDERS["autograd alone"].prepare(weights, PenaltyOptions())
    assert call()[1][0].data_ptr() == call()[1][0].data_ptr()


def test_weights_are_left_as_they_were():
    weights = make_weights(SHAPES)
    before = [weight.clone() for weight in weights]
    calls, _ = prepare([name for name in CONTENDERS if name != COMPILED], weights, PenaltyOptions())
    for call in calls.values():
        call()
    for weight, same in zip(weights, before, strict=True):
        assert torch.equal(weight, same)
        assert weight.grad is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda value, gradients: (value * 1.01, gradients), "wrong: expected the value"),
        (lambda value, gradients: (value, gradients[:-1]), "wrong: expected 4 gradients, found 3"),
        (
            lambda value, gradients: (value, [*gradients[:-1], gradients[-1] * 1.01]),
            "wrong: gradient 3 is off",
        ),
        (
            lambda value, gradients: (value, [gradients[0] * float("nan"), *gradients[1:]]),
            "wrong: gradient 0 is off",
        ),
    ],
)
def test_a_wrong_contender_is_refused(monkeypatch, spoil, message):
    def prepare_wrong(weights, options):
        right = CONTENDERS["ours"].prepare(weights, options)
        return lambda: spoil(*right())

    monkeypatch.setitem(CONTENDERS, "wrong", Contender(prepare_wrong))
    with pytest.raises(AssertionError, match=message):
        prepare(["wrong"], make_weights(SHAPES), PenaltyOptions())


def test_without_a_compiler_the_rest_is_prepared_and_the_reason_kept(monkeypatch):
    def failing(function, **options):
        def call(*arguments):
            raise RuntimeError("no working C++ compiler\nsecond line")

        return call

    monkeypatch.setattr(module.torch, "compile", failing)
    calls, notes = prepare(["ours", COMPILED], make_weights(SHAPES), PenaltyOptions())
    assert list(calls) == ["ours"]
    assert notes == {COMPILED: "torch.compile failed: RuntimeError: no working C++ compiler"}


def test_bytes_are_those_of_the_elements():
    assert count_bytes(make_weights(SHAPES[:1])) == 8 * 3 * 9 * 4
    assert count_bytes(make_weights(SHAPES[:1], dtype=torch.bfloat16)) == 8 * 3 * 9 * 2
