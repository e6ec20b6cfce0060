from __future__ import annotations

import pytest
import torch
from torch import nn

from skreg.training.optimization import SCHEDULES, build_optimizer, build_schedule, optimizer_class


def learning_rates(name, options, *, epochs=4, steps_per_epoch=5):
    """The rate of every step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    schedule = build_schedule(name, options, optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch)
    rates = []
    for _ in range(epochs * steps_per_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_constant():
    assert learning_rates("constant", {}) == [0.1] * 20


def test_step_and_multistep_count_epochs():
    assert learning_rates("step", {"step_size": 2, "gamma": 0.5}) == [0.1] * 10 + [0.05] * 10
    rates = learning_rates("multistep", {"milestones": [1, 3], "gamma": 0.5})
    assert rates == pytest.approx([0.1] * 5 + [0.05] * 10 + [0.025] * 5)


def test_cosine_falls_to_its_minimum():
    rates = learning_rates("cosine", {"eta_min": 0.01})
    assert rates[0] == 0.1
    assert rates[10] == pytest.approx(0.055)
    assert rates == sorted(rates, reverse=True)
    assert 0.01 < rates[-1] < 0.012


def test_onecycle_peaks_at_the_learning_rate():
    rates = learning_rates("onecycle", {"pct_start": 0.5})
    assert max(rates) == pytest.approx(0.1)
    assert rates[0] == pytest.approx(0.1 / 25)
    assert rates[-1] < 1e-5


def test_every_schedule_survives_a_weights_only_file(tmp_path):
    options = {"step": {"step_size": 1}, "multistep": {"milestones": [1]}}
    for name in SCHEDULES:
        optimizer = build_optimizer("adamw", {}, 1e-3, [nn.Parameter(torch.zeros(1))])
        schedule = build_schedule(name, options.get(name, {}), optimizer, epochs=2, steps_per_epoch=3)
        torch.save(schedule.state_dict(), tmp_path / name)
        schedule.load_state_dict(torch.load(tmp_path / name, weights_only=True))


def test_short_and_exact_names():
    assert optimizer_class("adamw") is torch.optim.AdamW
    assert optimizer_class("RMSprop") is torch.optim.RMSprop
    optimizer = build_optimizer("sgd", {"momentum": 0.5}, 0.25, [nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["lr"] == 0.25
    assert optimizer.defaults["momentum"] == 0.5


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_on_the_cpu_the_fused_form_is_taken_and_steps_alike(name: str) -> None:
    weights = [nn.Parameter(torch.randn(40, 3, generator=torch.Generator().manual_seed(1))) for _ in range(2)]
    optimizers = [
        build_optimizer(name, options, 0.01, [weight])
        for options, weight in zip(({}, {"fused": False}), weights, strict=True)
    ]
    assert [optimizer.defaults["fused"] for optimizer in optimizers] == [True, False]
    for step in range(5):
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = torch.sin(weight.detach() * (step + 1))
            optimizer.step()
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-6)


def test_options_that_exclude_the_fused_form_are_taken() -> None:
    for options in ({"foreach": True}, {"differentiable": True}):
        assert not build_optimizer("sgd", options, 0.01, [nn.Parameter(torch.zeros(1))]).defaults["fused"]
