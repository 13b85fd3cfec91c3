"""Objectives and constraints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.config.errors import ConfigError
from sweeps.search import Constraint, Goals

TWO = Goals(objectives={"val/accuracy": "maximize", "model/parameters": "minimize"})
POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] >= b[0] and a[1] <= b[1] and a != b


@given(points=POINTS)
def test_the_front_is_whom_no_other_beats(points):
    front = TWO.front(points)
    assert sorted(front) == [i for i, p in enumerate(points) if not any(beats(q, p) for q in points)]


@given(points=POINTS)
def test_the_front_is_ordered_by_the_first_objective(points):
    first = [points[index][0] for index in TWO.front(points)]
    assert first == sorted(first, reverse=True)


@given(limit=st.floats(0.01, 1e6), value=st.floats(-1e6, 1e6))
def test_a_violation_is_positive_exactly_where_the_limit_is_broken(limit, value):
    assert (Constraint("m", "<=", limit).violation(value) > 0) == (value > limit)
    assert (Constraint("m", ">=", limit).violation(value) > 0) == (value < limit)


def test_violations_are_fractions_of_the_limit():
    assert Constraint.read("m", "<= 100").violation(150) == pytest.approx(0.5)
    assert Constraint.read("m", ">=0.8").violation(0.6) == pytest.approx(0.25)
    assert Constraint.read("m", "<= 0").violation(3) == 3


@pytest.mark.parametrize("text", ["100", "< 3", "<= many", "== 2"])
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(ConfigError, match=rf"search\.constraints of m must be '<= NUMBER'.*got '{text}'"):
        Constraint.read("m", text)


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ({"val/accuracy": 0.5, "model/parameters": 3.0}, None),
        ({"val/accuracy": 0.5}, r"model/parameters is not reported; reported: val/accuracy"),
        ({"val/accuracy": float("nan"), "model/parameters": 3.0}, "val/accuracy is nan"),
    ],
)
def test_a_trial_is_judged_only_where_every_metric_is_known(metrics, why):
    assert TWO.missing(metrics) == why
