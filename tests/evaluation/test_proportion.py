from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skreg.evaluation import Proportion


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (5, 10, 0.236593, 0.763407),
        (81, 263, 0.255289, 0.366207),
    ],
)
def test_interval_of_wilson(count, total, low, high):
    """Published values (Newcombe 1998, table I) and their like."""
    assert Proportion(count, total).interval == pytest.approx((low, high), abs=2e-4)


@given(st.integers(1, 2000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_ends_are_where_the_share_is_just_plausible(pair):
    """The ends p solve |share - p| = z sqrt(p (1 - p) / n), which is how Wilson defines them."""
    share = Proportion(*pair)
    for end in share.interval:
        deviation = 1.959964 * math.sqrt(end * (1 - end) / share.total)
        assert abs(share.value - end) == pytest.approx(deviation, abs=1e-6)
    assert share.interval[0] <= share.value <= share.interval[1]


def test_nothing_is_known_of_no_images():
    assert math.isnan(Proportion(0, 0).value)
    assert Proportion(0, 0).interval == (0.0, 1.0)
