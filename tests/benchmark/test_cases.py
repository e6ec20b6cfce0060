from __future__ import annotations

import pytest

from skreg.benchmark import CONTENDERS, SECTIONS, WEIGHT_SETS, build_cases
from skreg.benchmark.cases import TITLES, thread_counts
from skreg.benchmark.contenders import COMPILED


def test_every_section_has_cases_and_a_title():
    cases = build_cases(threads=2)
    assert {case.section for case in cases} == set(SECTIONS) == set(TITLES)
    assert {name for case in cases for name in case.contenders} == set(CONTENDERS)
    assert all(case.contenders[0].startswith("ours") for case in cases)
    assert all("copy, fresh memory" in case.contenders for case in cases)


def test_penalty_covers_every_net_and_exponent():
    cases = build_cases(["penalty"], threads=1)
    assert {(case.weights, case.exponentiate) for case in cases} == {
        (name, exponentiate) for name in WEIGHT_SETS for exponentiate in ("none", "kernel", "layer")
    }


def test_selection_of_sections_and_weights():
    cases = build_cases(["threads"], ["resnet50"], threads=4)
    assert [(case.weights, case.threads) for case in cases] == [
        ("resnet50", 1),
        ("resnet50", 2),
        ("resnet50", 4),
    ]


def test_without_compile_only_that_is_missing():
    with_it, without = (
        build_cases(["penalty"], threads=1),
        build_cases(["penalty"], threads=1, compiled=False),
    )
    for case, less in zip(with_it, without, strict=True):
        assert set(case.contenders) - set(less.contenders) == {COMPILED}


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_thread_counts_double_up_to_the_most(most, counts):
    assert thread_counts(most) == counts


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"sections": ["speed"], "threads": 1},
            ValueError,
            "section: expected one of penalty, .*found 'speed'",
        ),
        ({"sets": ["vgg"], "threads": 1}, ValueError, "weights: expected one of two_conv, .*found 'vgg'"),
        ({"threads": 0}, ValueError, "threads must be at least 1, found 0"),
        ({"threads": 1.5}, TypeError, "threads must be an integer, found 1.5"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        build_cases(**arguments)
