from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from skreg import native
from skreg.benchmark import CONTENDERS, Case, build_cases, describe_machine, run_cases

SHAPES = ((16, 8, 3, 3), (8, 16, 5, 5))
WEIGHTS = 16 * 8 * 9 + 8 * 16 * 25
CASE = Case("penalty", "small", SHAPES, ("ours", "matrix", "copy, fresh memory", "copy, ready memory"), 1)
QUICK = {"rounds": 3, "seconds": 1.0}


def test_figures_fit_together():
    rows = {row.contender: row for row in run_cases([CASE], **QUICK)}
    assert list(rows) == list(CASE.contenders)
    for row in rows.values():
        assert (row.tensors, row.count, row.samples) == (2, WEIGHTS, 3)
        assert row.lower_us <= row.median_us <= row.upper_us
        passes = CONTENDERS[row.contender].passes
        assert row.gb_per_s == pytest.approx(passes * WEIGHTS * 4 / (row.median_us * 1e-6) / 1e9, rel=1e-3)
        assert row.times_first == pytest.approx(row.median_us / rows["ours"].median_us, rel=1e-3)
        for share, copy in [
            (row.of_fresh_copy, "copy, fresh memory"),
            (row.of_ready_copy, "copy, ready memory"),
        ]:
            assert share == pytest.approx(row.gb_per_s / rows[copy].gb_per_s, rel=1e-3)
    assert rows["ours"].times_first == 1


def test_rows_say_what_was_measured():
    case = Case("formats", "small", SHAPES, ("ours, bfloat16, channels_last",), 1, "layer", cold=True)
    (row,) = run_cases([case], **QUICK)
    assert (row.section, row.weights, row.dtype, row.layout) == (
        "formats",
        "small",
        "bfloat16",
        "channels_last",
    )
    assert (row.exponentiate, row.cache, row.threads) == ("layer", "cold", 1)
    assert row.of_fresh_copy is None  # no copy was measured


def test_forms_of_the_weights_are_measured_in_one_case():
    (case,) = build_cases(["formats"], ["two_conv"], threads=1)
    case = replace(case, shapes=SHAPES)
    rows = {row.contender: row for row in run_cases([case], **QUICK)}
    assert [(row.dtype, row.layout) for row in rows.values()][:5] == [
        ("float32", "contiguous"),
        ("bfloat16", "contiguous"),
        ("float32", "channels_last"),
        ("bfloat16", "channels_last"),
        ("bfloat16", "contiguous"),
    ]
    halves = rows["ours, bfloat16"]
    assert halves.gb_per_s == pytest.approx(2 * WEIGHTS * 2 / (halves.median_us * 1e-6) / 1e9, rel=1e-3)
    assert halves.times_first == pytest.approx(halves.median_us / rows["ours"].median_us, rel=1e-3)


def test_contenders_without_a_byte_count_have_no_rate():
    case = Case("small", "small", SHAPES, ("ours", "ours on one kernel", "autograd alone"), 1)
    rates = {row.contender: row.gb_per_s for row in run_cases([case], **QUICK)}
    assert rates["ours"] is not None
    assert rates["ours on one kernel"] is rates["autograd alone"] is None


def test_what_cannot_run_gets_a_row_with_the_reason(monkeypatch):
    def failing(function, **options):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda function, **options: failing)
    case = Case("penalty", "small", SHAPES, ("ours", "naive, compiled"), 1)
    ours, compiled = run_cases([case], **QUICK)
    assert ours.note == ""
    assert (compiled.samples, compiled.median_us, compiled.gb_per_s) == (0, None, None)
    assert compiled.note.startswith("torch.compile failed")


def test_threads_are_set_for_the_case_and_put_back(monkeypatch):
    before = torch.get_num_threads()
    seen = []
    original = CONTENDERS["ours"].prepare
    monkeypatch.setitem(
        CONTENDERS,
        "ours",
        type(CONTENDERS["ours"])(lambda *args: seen.append(torch.get_num_threads()) or original(*args)),
    )
    told = []
    run_cases([Case("threads", "small", SHAPES, ("ours",), before + 1)], **QUICK, progress=told.append)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
    assert told == [f"threads: small, kernel, {before + 1} threads"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rounds": 0}, "rounds must be at least 1"), ({"seconds": 0}, "seconds must be .*above 0")],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        run_cases([CASE], **options)


def test_without_the_native_operator_there_is_nothing_to_measure(monkeypatch):
    monkeypatch.setattr(native, "supports", lambda device_type: False)
    with pytest.raises(RuntimeError, match="no native operator for cpu here"):
        run_cases([CASE])


def test_machine_names_what_figures_depend_on():
    machine = describe_machine()
    assert machine["torch"] == torch.__version__
    assert machine["simd"] == native.cpu_module.simd_level()
    assert machine["processors"] >= 1
    assert all(machine.values())
