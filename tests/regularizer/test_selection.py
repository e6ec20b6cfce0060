from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from skreg.selection import match_coefficients, select_weights


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(2, 3, 5)
        self.two = nn.Conv2d(2, 3, 3)
        self.three = nn.Conv3d(1, 2, 2)
        self.up = nn.ConvTranspose2d(2, 2, 4)
        self.pointwise = nn.Conv2d(4, 4, 1)
        self.linear = nn.Linear(4, 4)
        self.positions = nn.Parameter(torch.zeros(1, 4, 4))
        self.indices = nn.Parameter(torch.zeros(2, 2, 3, dtype=torch.int64), requires_grad=False)


CONVOLUTIONS = ["one.weight", "two.weight", "three.weight", "up.weight"]


def test_takes_the_weights_of_all_convolutions_but_pointwise_ones() -> None:
    net = Net()
    selected = select_weights(net)
    assert list(selected) == CONVOLUTIONS
    assert selected["up.weight"] is net.up.weight


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ("two.*", None, ["two.weight"]),
        (["up.*", "o*"], None, ["one.weight", "up.weight"]),
        ("p*", None, ["positions"]),
        ("pointwise.weight", None, ["pointwise.weight"]),
        (None, "*t*e*.weight", ["one.weight", "two.weight", "up.weight"]),
        ("*", ["positions", "pointwise.*"], CONVOLUTIONS),
        (["*", "pointwise.weight"], "t*", ["positions", "one.weight", "up.weight", "pointwise.weight"]),
    ],
)
def test_patterns(include: object, exclude: object, expected: list[str]) -> None:
    assert sorted(select_weights(Net(), include, exclude)) == sorted(expected)


def test_a_pattern_is_case_sensitive() -> None:
    with pytest.raises(ValueError, match=r"include: 'TWO\.\*' matches no parameter; candidates: .*two\.weight"):
        select_weights(Net(), include="TWO.*")


def test_a_shared_weight_is_taken_once() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3))
    net[1].weight = net[0].weight
    assert list(select_weights(net)) == ["0.weight"]


def test_computed_weights_are_taken_as_the_convolution_uses_them() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3))
    pruned = nn.utils.prune.l1_unstructured(nn.Conv2d(2, 2, 3), "weight", 0.5)
    net = nn.Sequential(normed, nn.Conv2d(2, 2, 3), pruned)
    selected = select_weights(net)
    assert list(selected) == ["1.weight", "0.weight", "2.weight"]
    assert torch.equal(selected["0.weight"], normed.weight)
    assert torch.equal(selected["2.weight"], pruned.weight)
    assert list(select_weights(net, include="0.*1")) == ["0.parametrizations.weight.original1"]
    assert list(select_weights(net, exclude=["0.*", "2.*"])) == ["1.weight"]


def test_a_weight_that_goes_stale_is_refused_by_name() -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        net = nn.Sequential(nn.Conv2d(2, 2, 3), nn.utils.weight_norm(nn.Conv2d(2, 2, 3)))
    with pytest.raises(ValueError, match=r"1\.weight: Conv2d has no parameter 'weight'.*or exclude this weight"):
        select_weights(net)
    assert list(select_weights(net, exclude="1.*")) == ["0.weight"]


def test_pairs_are_all_taken() -> None:
    net = Net()
    pairs = [("a", net.positions), ("b", net.two.weight), ("c", net.pointwise.weight)]
    assert list(select_weights(iter(pairs))) == ["a", "b"]
    assert list(select_weights(net.named_parameters(), include="two.weight")) == ["two.weight"]


@pytest.mark.parametrize("exclude", ["linear.weight", ["two.*", "nothing"]])
def test_an_exclude_pattern_without_a_match(exclude: object) -> None:
    with pytest.raises(ValueError, match=r"exclude: '(linear\.weight|nothing)' matches no parameter; candidates: "):
        select_weights(Net(), exclude=exclude)


@pytest.mark.parametrize(("include", "exclude"), [(None, "*"), ("pointwise*", None), ("two.*", "two.*"), ([], None)])
def test_an_empty_selection_lists_the_candidates(include: object, exclude: object) -> None:
    with pytest.raises(ValueError, match=r"leave no weight.*one element.*candidates: positions, one\.weight, .*up\.w"):
        select_weights(Net(), include, exclude)


def test_a_long_list_of_candidates_is_cut() -> None:
    net = nn.Sequential(*(nn.Conv1d(1, 1, 3) for _ in range(70)))
    with pytest.raises(ValueError, match=r"59\.weight and 10 more"):
        select_weights(net, include="none")


@pytest.mark.parametrize("source", [nn.Linear(2, 2), nn.ReLU(), []])
def test_a_source_without_candidates(source: object) -> None:
    with pytest.raises(ValueError, match="found no floating parameter with 3 to 5 dimensions"):
        select_weights(source)


def test_lazy_weights() -> None:
    net = nn.Sequential(nn.LazyConv2d(2, 3), nn.LazyLinear(3), nn.Conv2d(2, 2, 3))
    with pytest.raises(ValueError, match=r"0\.weight: not initialised yet; run one batch"):
        select_weights(net)
    assert list(select_weights(net, exclude="0.*")) == ["2.weight"]
    net[0](torch.zeros(1, 1, 8, 8))
    assert list(select_weights(net)) == ["0.weight", "2.weight"]


WEIGHT = nn.Parameter(torch.zeros(2, 2, 3, 3))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (WEIGHT, TypeError, "expected a module or .* pairs, found Parameter"),
        (3, TypeError, "expected a module or .* pairs, found int"),
        ([WEIGHT], TypeError, "pairs as of model.named_parameters.*, found Parameter"),
        ({"a": WEIGHT}, TypeError, "pairs .* found str"),
        ([("a", WEIGHT, 1)], TypeError, "pairs .* found tuple"),
        ([(1, WEIGHT)], TypeError, "pairs .* found tuple"),
        ([("a", [1.0])], TypeError, "a: expected a tensor, found list"),
        ([("a", WEIGHT), ("b", WEIGHT)], ValueError, "a and b are the same tensor"),
        ([("a", WEIGHT), ("a", WEIGHT * 1)], ValueError, "the name 'a' is given to two"),
        ([("a.bias", torch.zeros(3))], ValueError, r"a\.bias: expected a conv weight .*found shape \(3,\)"),
        ([("a", torch.zeros(2, 2, 3, dtype=torch.int32))], TypeError, "a: expected dtype .*int32"),
        ([("a", WEIGHT * 2)], ValueError, "a: computed from other tensors.*smooth_kernel_penalty"),
    ],
)
def test_bad_sources(source: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        select_weights(source)


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_patterns_must_be_strings(option: str) -> None:
    with pytest.raises(TypeError, match=f"{option}: expected patterns .* found 3"):
        select_weights(Net(), **{option: [3]})


def test_the_last_matching_coefficient_decides() -> None:
    names = ["stem.weight", "body.0.weight", "body.1.weight", "head.weight"]
    assert match_coefficients(names, None) == [1.0] * 4
    assert match_coefficients(names, {"body.*": 2, "body.1.weight": -3.5}) == [1.0, 2.0, -3.5, 1.0]
    assert match_coefficients(names, {"body.1.weight": -3.5, "*": 0.5}) == [0.5] * 4


@pytest.mark.parametrize(
    ("coefficients", "error", "message"),
    [
        ({"b*": 1.0}, ValueError, r"coefficients: 'b\*' matches no parameter; candidates: a$"),
        ({"a": float("nan")}, ValueError, r"coefficients\['a'\]: expected a finite number, found nan"),
        ({"a": "1"}, TypeError, r"coefficients\['a'\]: expected a number, found '1'"),
        ({"a": True}, TypeError, r"coefficients\['a'\]: expected a number, found True"),
        ({1: 1.0}, TypeError, "coefficients: expected patterns .* found 1"),
        ([1.0], TypeError, "coefficients: expected a mapping .* found list"),
    ],
)
def test_bad_coefficients(coefficients: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        match_coefficients(["a"], coefficients)


@given(st.lists(st.sampled_from(CONVOLUTIONS), min_size=1), st.sets(st.sampled_from(CONVOLUTIONS)))
def test_exact_names_select_exactly(include: list[str], exclude: set[str]) -> None:
    expected = [name for name in CONVOLUTIONS if name in include and name not in exclude]
    if expected:
        assert list(select_weights(Net(), include, sorted(exclude))) == expected
    else:
        with pytest.raises(ValueError, match="leave no weight"):
            select_weights(Net(), include, sorted(exclude))
