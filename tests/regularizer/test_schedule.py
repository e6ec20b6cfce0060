from __future__ import annotations

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn

from skreg import reference
from skreg.regularizer import SmoothKernelRegularizer


def warm_up_and_decay(step: int) -> float:
    """Up to 0.2 within 2 steps, down to 0 at step 6 along a cosine."""
    return 0.1 * step if step < 2 else 0.1 * (1 + math.cos(math.pi * (step - 2) / 4))


def train(
    model: nn.Module, batches: list[Tensor], attached: bool, reg: SmoothKernelRegularizer
) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if attached:
        reg.attach(optimizer)
    for batch in batches:
        loss = model(batch).square().mean()
        (loss if attached else loss + reg()).backward()
        optimizer.step()
        reg.step()
        optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize("attached", [True, False])
def test_a_schedule_is_a_function_of_the_steps(model: nn.Module, batches: list[Tensor], attached: bool) -> None:
    plain = copy.deepcopy(model)
    train(model, batches, attached, SmoothKernelRegularizer(model, warm_up_and_decay))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for step, batch in enumerate(batches):
        penalty = reference.smooth_kernel_penalty([plain.first.weight, plain.second.weight])
        (plain(batch).square().mean() + warm_up_and_decay(step) * penalty).backward()
        optimizer.step()
        optimizer.zero_grad()
    for found, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_nothing_but_step_counts(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, lambda step: 1.0 + step)
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.001) for part in (model.first, model.second)]
    for optimizer in optimizers:
        reg.attach(optimizer)
        optimizer.step()
    reg()
    reg.statistics()
    assert (reg.steps, reg.strength) == (0, 1.0)
    reg.step()
    assert (reg.steps, reg.strength) == (1, 2.0)


def test_live_changes_between_numbers_and_schedules(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, 0.5)
    one = reg() / 0.5
    reg.step()
    reg.step()
    assert reg.strength == 0.5
    reg.strength = lambda step: 10.0 * step
    torch.testing.assert_close(reg(), 20 * one, rtol=1e-12, atol=0)
    reg.step()
    assert reg.strength == 30.0
    reg.strength = -1
    reg.step()
    torch.testing.assert_close(reg(), -one, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (math.nan, ValueError, r"strength\(2\): expected a finite number, found nan"),
        (None, TypeError, r"strength\(2\): expected a number, found None"),
    ],
)
def test_a_bad_value_of_a_schedule_changes_nothing(
    model: nn.Module, value: object, error: type[Exception], message: str
) -> None:
    reg = SmoothKernelRegularizer(model, lambda step: [0.0, 1.0, value][step])
    reg.step()
    for _ in range(2):
        with pytest.raises(error, match=message):
            reg.step()
    assert (reg.steps, reg.strength) == (1, 1.0)
    with pytest.raises(error, match=r"strength\(1\)"):
        reg.strength = lambda step: value
    assert reg.strength == 1.0
    reg = SmoothKernelRegularizer(model, 0.5)
    with pytest.raises(error, match=r"strength\(0\)"):
        reg.strength = lambda step: value
    assert (reg.strength, reg.state_dict()["scheduled"]) == (0.5, False)


def test_a_schedule_that_is_never_stepped_is_said_once(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, lambda step: 0.1 * step)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(999):
            reg.trainable()
        assert not caught
        for _ in range(999):
            reg.trainable()
        assert [str(w.message).split(":")[-1] for w in caught] == [" call reg.step() after optimizer.step()"]
        reg.strength = lambda step: 0.2 * step  # a new schedule is waited for anew
        for _ in range(999):
            reg.trainable()
        assert len(caught) == 1
        reg.trainable()
        assert len(caught) == 2
    reg = SmoothKernelRegularizer(model, lambda step: 0.1 * step)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reg.step()
        for _ in range(2000):
            reg.trainable()


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("scheduled", [True, False])
def test_a_resumed_run_is_the_uninterrupted_one(
    model: nn.Module, batches: list[Tensor], attached: bool, scheduled: bool, tmp_path
) -> None:
    strength = warm_up_and_decay if scheduled else 0.3
    through = copy.deepcopy(model)
    reg = SmoothKernelRegularizer(through, strength)
    optimizer = train(through, batches[:3], attached, reg)
    if not scheduled:
        reg.strength = 0.1  # live, and kept
    state = {"model": through.state_dict(), "optimizer": optimizer.state_dict(), "regularizer": reg.state_dict()}
    torch.save(state, tmp_path / "checkpoint.pt")

    def go_on(net: nn.Module, reg: SmoothKernelRegularizer, optimizer: torch.optim.Optimizer) -> None:
        for batch in batches[3:]:
            optimizer.zero_grad()
            loss = net(batch).square().mean()
            (loss if attached else loss + reg()).backward()
            optimizer.step()
            reg.step()

    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed = copy.deepcopy(model)
    resumed_reg = SmoothKernelRegularizer(resumed, strength)
    resumed_optimizer = torch.optim.SGD(resumed.parameters(), lr=0.1, momentum=0.9)
    if attached:
        resumed_reg.attach(resumed_optimizer)
    resumed.load_state_dict(loaded["model"], assign=True)  # replaces the parameters
    resumed_optimizer = torch.optim.SGD(resumed.parameters(), lr=0.1, momentum=0.9)
    if attached:
        resumed_reg.attach(resumed_optimizer)
    resumed_optimizer.load_state_dict(loaded["optimizer"])
    resumed_reg.load_state_dict(loaded["regularizer"])
    assert (resumed_reg.steps, resumed_reg.strength) == (reg.steps, reg.strength)
    go_on(through, reg, optimizer)
    go_on(resumed, resumed_reg, resumed_optimizer)
    for found, expected in zip(resumed.parameters(), through.parameters(), strict=True):
        assert torch.equal(found, expected)


def state_of(model: nn.Module, strength: object = 0.5, **options: object) -> dict[str, object]:
    return SmoothKernelRegularizer(model, strength, **options).state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: state_of(m, exclude="first.*"), r"names: .*not in the state: \['first\.weight'\]"),
        (lambda m: state_of(nn.Sequential(m)), r"names: .*not in this regularizer: \['0\.first\.weight'"),
        (lambda m: state_of(list(m.named_parameters())[2::-2]), r"names: .*in another order"),
        (lambda m: state_of(m, coefficients={"first.*": 2.0}), r"coefficients: .*\[2\.0, 1\.0\] saved, \[1\.0, 1\.0\]"),
        (
            lambda m: state_of(m, connectivity=2, reduction="mean"),
            r"options: .*\(reduction='mean' saved, 'sum' here, connectivity=2 saved, 1 here\)",
        ),
        (
            lambda m: {**state_of(m), "names": None},
            r"names: .*\(None saved, \['first\.weight', 'second.* here",
        ),
        (lambda m: {**state_of(m), "options": None}, r"options: .*\(None saved, \{'normalize'"),
        (lambda m: state_of(m, lambda step: 1.0), "strength: saved as a schedule, here a number"),
        (lambda m: {**state_of(m), "steps": -1}, "steps: expected a count, found -1"),
        (lambda m: {**state_of(m), "steps": True}, "steps: expected a count, found True"),
        (lambda m: {**state_of(m), "steps": 1.5}, r"steps: expected a count, found 1\.5"),
        (lambda m: {**state_of(m), "steps": 5, "strength": math.inf}, "strength: expected a finite number, found inf"),
        (lambda m: {}, r"expected the keys \['coefficients', 'names'.*\], found \[\]"),
        (lambda m: {**state_of(m), "more": 1}, "'more'"),
        (lambda m: None, "found NoneType"),
    ],
)
def test_a_state_of_something_else_is_refused_and_changes_nothing(model: nn.Module, change, message: str) -> None:
    reg = SmoothKernelRegularizer(model, 0.25)
    before = reg.state_dict()
    with pytest.raises(ValueError, match=message):
        reg.load_state_dict(change(model))
    assert reg.state_dict() == before


def test_a_schedule_refuses_the_state_of_a_number(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, warm_up_and_decay)
    with pytest.raises(ValueError, match="strength: saved as a number, here a schedule"):
        reg.load_state_dict(state_of(model))


def test_a_schedule_that_was_changed_counts_from_the_saved_step(model: nn.Module) -> None:
    state = {**state_of(model, warm_up_and_decay), "steps": 3, "strength": 17.0}
    reg = SmoothKernelRegularizer(model, lambda step: 0.5 * step)
    reg.load_state_dict(state)
    assert (reg.steps, reg.strength) == (3, 1.5)


def test_copies_are_attached_to_nothing(model: nn.Module) -> None:
    reg = SmoothKernelRegularizer(model, 0.5)
    reg.attach(torch_optimizer := torch.optim.SGD(model.parameters(), lr=0.1))
    assert list(reg.optimizers) == [torch_optimizer]
    for other in (copy.deepcopy(reg), pickle.loads(pickle.dumps(reg))):
        assert not other.optimizers
        assert other().item() == reg().item()
