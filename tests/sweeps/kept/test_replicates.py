"""Replicates as values: their folders, their seeds, their mean and its standard error."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_in import trial_config

from sweeps.kept import replicates

FINITE = st.floats(-1e6, 1e6)


def of(*values: float) -> list[dict[str, float]]:
    return [{"x": value} for value in values]


def test_means_and_errors_are_those_worked_by_hand():
    # Deviations -1, 0, 1: a sample variance of 1, divided by 3 replicates.
    assert replicates.mean(of(1.0, 2.0, 3.0)) == {"x": 2.0}
    assert replicates.standard_errors(of(1.0, 2.0, 3.0)) == {"x": pytest.approx(1 / math.sqrt(3))}


@given(st.lists(FINITE, min_size=2, max_size=6), st.randoms())
def test_the_order_of_replicates_does_not_matter(values, random):
    shuffled = random.sample(values, len(values))
    assert replicates.mean(of(*values)) == replicates.mean(of(*shuffled))
    assert replicates.standard_errors(of(*values)) == replicates.standard_errors(of(*shuffled))


@given(FINITE, st.integers(2, 6))
def test_equal_replicates_have_no_error_and_their_own_value_as_mean(value, num):
    assert replicates.mean(of(*[value] * num))["x"] == pytest.approx(value)
    assert replicates.standard_errors(of(*[value] * num)) == {"x": 0.0}


def test_one_training_is_its_own_mean_and_has_no_error():
    assert replicates.mean(of(0.1)) == {"x": 0.1}
    assert replicates.standard_errors(of(0.1)) == {}
    assert replicates.standard_errors([]) == {}


def test_only_what_all_replicates_report_is_told():
    reported = [{"x": 1.0, "a": 5.0}, {"x": 3.0, "b": 6.0}]
    assert replicates.mean(reported) == {"x": 2.0}
    assert replicates.standard_errors(reported) == {"x": pytest.approx(1.0)}


@pytest.mark.parametrize(
    ("values", "mean"),
    [((math.nan, 1.0), math.nan), ((math.inf, 1.0), math.inf), ((math.inf, -math.inf), math.nan)],
)
def test_what_is_not_finite_spoils_its_own_mean_and_nothing_else(values, mean):
    reported = [{"x": x, "y": y} for x, y in zip(values, (1.0, 2.0), strict=True)]
    told, errors = replicates.mean(reported), replicates.standard_errors(reported)
    assert told == {"x": pytest.approx(mean, nan_ok=True), "y": 1.5}
    assert math.isnan(errors["x"])
    assert errors["y"] == pytest.approx(0.5)


def test_replicates_are_found_in_order_and_nothing_else_is(tmp_path):
    for name in ("10", "2", "0", "checkpoints", "events"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").touch()
    assert [folder.name for folder in replicates.found(tmp_path)] == ["0", "2", "10"]


def test_a_training_alone_is_kept_in_the_trial_s_own_folder(tmp_path):
    assert replicates.folders(tmp_path, 1) == [tmp_path]
    assert replicates.folders(tmp_path, 2) == [tmp_path / "0", tmp_path / "1"]


def test_a_replicate_differs_from_its_trial_in_its_seed_alone():
    config = trial_config().to_dict() | {"seed": 5}
    assert replicates.config(config, 0) == config
    assert replicates.config(config, 2) == {**config, "seed": 7}
    assert config["seed"] == 5
