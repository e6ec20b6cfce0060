from __future__ import annotations

import pytest

from skreg.benchmark import plain_training, run_training
from skreg.benchmark import training as module


def test_a_small_case_is_measured_and_equal_to_the_plain_loop():
    rows = run_training(
        ["two_conv"], threads=1, batch_size=4, attack_steps=3, rounds=2, seconds=0.1, contenders=["float32"]
    )
    assert [(row.loss, row.contender) for row in rows] == [
        ("T", "plain"), ("T", "float32"), ("A", "plain"), ("A", "float32"),
    ]  # fmt: skip
    assert all(row.same_pixels == 1 and row.median_ms > 0 for row in rows)


def test_another_result_than_the_plain_loops_stops_the_benchmark(monkeypatch):
    monkeypatch.setattr(plain_training, "DEVIATION", 0.01)
    with pytest.raises(AssertionError, match="two_conv, T: expected the plain loop's adversarial images"):
        run_training(
            ["two_conv"], threads=1, batch_size=4, attack_steps=3, rounds=1, seconds=0.1, contenders=["float32"]
        )


def test_without_instructions_for_it_bfloat16_is_not_run(monkeypatch):
    monkeypatch.setattr(module, "cpu_has_bfloat16", lambda: False)
    rows = run_training(
        ["two_conv"],
        threads=1,
        batch_size=2,
        attack_steps=1,
        rounds=1,
        seconds=0.1,
        contenders=["bfloat16, channels_last"],
    )
    assert rows[1].median_ms is None
    assert "no bfloat16 instructions" in rows[1].note


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="net: expected one of two_conv"):
        run_training(["vgg"], threads=1)
    with pytest.raises(ValueError, match="loss: expected one of T, A; found 'L'"):
        run_training(losses=["L"], threads=1)
    with pytest.raises(ValueError, match="contender: expected one of float32"):
        run_training(contenders=["float16"], threads=1)
