from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import Tensor, nn

from skreg import reference
from skreg.options import PenaltyOptions
from skreg.regularizer import SmoothKernelRegularizer
from skreg.stability import largest_eigenvalue, largest_stable_step, step_factor, warn_if_unstable

PLAIN = {"normalize": None, "exponentiate": None}


@pytest.mark.parametrize("spatial", [(1,), (7,), (3, 3), (1, 5), (2, 3), (5, 5), (2, 3, 2)])
@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_the_eigenvalue_is_that_of_the_hessian(spatial: tuple[int, ...], connectivity: int) -> None:
    kernel = torch.zeros(1, *spatial, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda k: reference.difference(k, connectivity).sum(), kernel)
    expected = torch.linalg.eigvalsh(hessian.reshape(kernel.numel(), -1) / 2)[-1]
    assert largest_eigenvalue(spatial, connectivity) == pytest.approx(float(expected), abs=1e-12)


def test_the_usual_neighbours_need_no_matrix() -> None:
    assert largest_eigenvalue((10**5, 10**5)) == pytest.approx(8.0, abs=1e-8)  # its matrix would have 10^20 elements


def roughest(spatial: tuple[int, int] = (3, 3)) -> Tensor:
    """The kernel of the largest eigenvalue, as the weight of a model of two channels."""
    axes = [torch.cos(torch.pi * (torch.arange(n) + 0.5) * (n - 1) / n).double() for n in spatial]
    return 1e-3 * torch.outer(*axes).expand(2, 1, *spatial)


def norms(make, strength: float, decoupled: bool, options: dict[str, object], lr: float = 0.5) -> list[float]:
    """The norms of the roughest kernel over many steps of the penalty alone, and whether it warned."""
    model = nn.Conv2d(1, 2, 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(roughest())
    optimizer = make(model.parameters(), lr)
    SmoothKernelRegularizer(model, strength, **options).attach(optimizer, decoupled=decoupled)
    found = [float(model.weight.detach().norm())]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(70 if options.get("normalize") else 400):  # before its smooth components have grown
            optimizer.step()
            optimizer.zero_grad()
            found.append(float(model.weight.detach().norm()))
    assert len(caught) <= 1
    return found, [str(w.message) for w in caught]


LOOPS = {
    "sgd": (lambda p, lr: torch.optim.SGD(p, lr), False, {}, 1.0),
    "sgd maximize": (lambda p, lr: torch.optim.SGD(p, lr, maximize=True), False, {}, 1.0),
    "momentum": (lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8), False, {}, 1.8),
    "nesterov": (lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8, nesterov=True), False, {}, 1.8 / 2.6),
    "dampening": (lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8, dampening=0.5), False, {}, 3.6),
    "mean": (lambda p, lr: torch.optim.SGD(p, lr), False, {"reduction": "mean"}, 2.0),
    "decoupled adamw": (lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0), True, {}, 1.0),
    "subtract": (lambda p, lr: torch.optim.SGD(p, lr), False, {"normalize": "subtract"}, 6 / 5),
}


@pytest.mark.parametrize(("make", "decoupled", "options", "factor"), LOOPS.values(), ids=LOOPS.keys())
def test_below_the_bound_rough_kernels_shrink_and_above_it_they_grow_and_it_warns(
    make, decoupled: bool, options: dict[str, object], factor: float
) -> None:
    options = {**PLAIN, **options}
    bound = factor / 6
    falling, silent = norms(make, 0.98 * bound / 0.5, decoupled, options)
    assert falling[-1] < 0.1 * falling[0]
    assert not silent
    growing, said = norms(make, 1.02 * bound / 0.5, decoupled, options)
    assert growing[-1] > 10 * growing[0]
    assert len(said) == 1
    assert f"weight: lr * strength * coefficient = {1.02 * bound:.4g} is beyond {bound:.4g}" in said[0]
    assert "by 1.02 or more" in said[0]


def test_exp_makes_the_bound_smaller() -> None:
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = reference.scores(weight.flatten(0, 1), PenaltyOptions())
    for options, expected in [
        ({}, math.exp(-scores.max()) / 5),
        ({"reduction": "mean"}, 6 * math.exp(-scores.max()) / 5),
        ({"max_exponent": 2.0}, math.exp(-2.0) / 5),
        ({"exponentiate": "layer"}, math.exp(-scores.sum()) / 5),
        ({"exponentiate": "layer", "reduction": "mean"}, 6 * math.exp(-scores.mean()) / 5),
        ({"normalize": "divide"}, math.inf),
        ({"exponentiate": None}, 1 / 5),
    ]:
        assert largest_stable_step(weight, PenaltyOptions(**options)) == pytest.approx(expected, rel=1e-12)
    assert largest_stable_step(weight[:0], PenaltyOptions()) == math.inf
    for normalize in ("subtract", None):
        assert largest_stable_step(weight[..., :1, :1], PenaltyOptions(normalize=normalize)) == math.inf
    half = weight.half()
    assert largest_stable_step(half, PenaltyOptions()) == largest_stable_step(half.double(), PenaltyOptions())


@pytest.mark.parametrize(
    ("strength", "make", "decoupled"),
    [
        (-100.0, torch.optim.SGD, False),  # to be rough is what is wanted
        (100.0, torch.optim.Adam, False),  # its steps are not the gradient's
        (0.0, torch.optim.SGD, True),
    ],
)
def test_no_warning_where_there_is_no_bound(strength: float, make, decoupled: bool) -> None:
    model = nn.Conv2d(1, 1, 3)
    optimizer = make(model.parameters(), lr=0.1)
    SmoothKernelRegularizer(model, strength, **PLAIN).attach(optimizer, decoupled=decoupled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


def test_the_worst_weight_of_several_groups_is_named(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(
        [{"params": model.first.parameters(), "lr": 0.3}, {"params": model.second.parameters(), "lr": 3.0}]
    )
    reg = SmoothKernelRegularizer(model, 1.0, coefficients={"second.*": 2.0}, **PLAIN)
    reg.attach(optimizer)
    before = copy.deepcopy(model)
    with pytest.warns(RuntimeWarning, match=r"^second\.weight: .* = 6 is beyond .*\(1 other weights are beyond"):
        optimizer.step()
    assert not torch.equal(before.first.weight, model.first.weight)


@pytest.mark.parametrize("decoupled", [False, True])
def test_weights_that_were_frozen_at_the_first_step_are_checked_later(model: nn.Module, decoupled: bool) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    SmoothKernelRegularizer(model, 1.0, **PLAIN).attach(optimizer, decoupled=decoupled)
    model.requires_grad_(False)
    optimizer.step()
    model.first.weight.requires_grad_(True)
    with pytest.warns(RuntimeWarning, match=r"^first\.weight: .* = 1 is beyond"):
        optimizer.step()


def test_limits_of_the_bound() -> None:
    large = torch.full((1, 1, 3, 3), 20.0, dtype=torch.float64)
    assert largest_stable_step(large, PenaltyOptions()) == math.inf  # S = -3600, whose exp is 0
    weight = [torch.zeros(1, requires_grad=True)]
    for options, expected in [
        ({"dampening": 0.5}, 1.0),  # without momentum nothing is dampened
        ({"momentum": 0.5, "dampening": 0.5}, 3.0),
        ({"momentum": 0.5, "dampening": 1.0}, math.inf),
    ]:
        optimizer = torch.optim.SGD(weight, lr=0.1, **options)
        assert step_factor(optimizer, optimizer.param_groups[0]) == expected


def warned(steps: list[float], kernel: float = 0.0) -> list[str]:
    names, weights = [f"conv{index}" for index in range(len(steps))], [kernel * torch.eye(3)[None, None]] * len(steps)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_unstable(names, weights, steps, [1.0] * len(steps), PenaltyOptions())
    return [str(warning.message) for warning in caught]


def test_rounding_is_not_beyond_and_the_worst_may_come_first() -> None:
    assert not warned([0.2, 0.2 * (1 + 1e-12)])
    (message,) = warned([0.6, 0.4, 0.1])
    assert message.startswith("conv0: ")
    assert "(1 other weights are beyond theirs too)" in message
    (message,) = warned([0.1, 0.4])
    assert message.startswith("conv1: ")
    assert "other" not in message


def test_where_exp_overflows_every_step_is_beyond() -> None:
    (message,) = warned([0.1, 0.2], kernel=30.0)  # S = 8 * 900 - 3 * 900
    assert message.startswith("conv0: lr * strength * coefficient = 0.1 is beyond 0, ")
    assert "by inf or more, or set max_exponent" in message
