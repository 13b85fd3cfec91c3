"""Distributions, bounds and conditions: what they accept, and that values stay inside."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sweeps.config.errors import ConfigError
from sweeps.space.distributions import Choice, Fixed, Numeric, parse
from sweeps.space.references import Condition
from sweeps.space.value_sources import Given, Random

UNITS = st.floats(0, 1)


def dependent(low: float, high: float, *, integer: bool = False, **options) -> Numeric:
    """A distribution whose low bound refers to the key `seed`, which has the value `low`."""
    found, _ = parse("key", {"int" if integer else "float": ["seed", high], **options})
    assert isinstance(found, Numeric)
    return found


@given(low=st.floats(-1e3, 1e3), width=st.floats(0, 1e3), unit=UNITS)
def test_a_unit_fraction_never_leaves_its_bounds(low, width, unit):
    high = low + width
    value = dependent(low, high).suggest(Given({"key:unit": unit}), lambda key: low)
    assert low <= value <= high


@given(low=st.floats(1e-8, 1e3), ratio=st.floats(1, 1e6), unit=UNITS)
def test_a_unit_fraction_of_a_logarithm_never_leaves_its_bounds(low, ratio, unit):
    high = low * ratio
    value = dependent(low, high, log=True).suggest(Given({"key:unit": unit}), lambda key: low)
    assert low <= value <= high


@given(low=st.floats(-10, 10), num=st.integers(0, 50), step=st.sampled_from([0.1, 0.25, 3.0]), unit=UNITS)
def test_a_stepped_value_lies_on_its_grid(low, num, step, unit):
    found = dependent(low, low + num * step, step=step)
    value = found.suggest(Given({"key:unit": unit}), lambda key: low)
    index = (value - low) / step
    assert index == pytest.approx(round(index), abs=1e-6)
    assert 0 <= round(index) <= num


@given(low=st.integers(1, 50), width=st.integers(0, 50), log=st.booleans(), data=st.data())
def test_every_integer_in_the_bounds_can_be_encoded_and_comes_back(low, width, log, data):
    found = dependent(low, low + width, integer=True, log=log)
    value = data.draw(st.integers(low, low + width))
    unit = found.encode(value, lambda key: low)
    assert 0 <= unit <= 1
    back = found.suggest(Given({"key:unit": unit}), lambda key: low)
    assert (back, type(back)) == (value, int)


@given(low=st.floats(1e-3, 10), width=st.floats(1e-2, 10), share=UNITS, log=st.booleans())
def test_every_value_in_the_bounds_can_be_encoded_and_comes_back_to_rounding(low, width, share, log):
    value = min(low + share * width, low + width)
    found = dependent(low, low + width, log=log)
    unit = found.encode(value, lambda key: low)
    assert found.suggest(Given({"key:unit": unit}), lambda key: low) == pytest.approx(value, rel=1e-9)


def test_the_ends_of_the_unit_fraction_are_the_bounds():
    for options in ({}, {"log": True}):
        found = dependent(0.2, 0.9, **options)
        ends = [found.suggest(Given({"key:unit": unit}), lambda key: 0.2) for unit in (0.0, 1.0)]
        assert ends == pytest.approx([0.2, 0.9])


def test_a_dependent_value_halfway_is_halfway_by_its_measure():
    half = Given({"key:unit": 0.5})
    assert dependent(0.2, 0.8).suggest(half, lambda key: 0.2) == pytest.approx(0.5)
    assert dependent(0.01, 1.0, log=True).suggest(half, lambda key: 0.01) == pytest.approx(0.1)
    assert dependent(1, 5, integer=True).suggest(half, lambda key: 1) == 3


def test_every_integer_has_an_equal_share_of_the_unit_fraction():
    found = dependent(1, 4, integer=True)
    values = [found.suggest(Given({"key:unit": (i + 0.5) / 400}), lambda key: 1) for i in range(400)]
    assert [values.count(v) for v in (1, 2, 3, 4)] == [100, 100, 100, 100]


def test_a_high_bound_off_the_grid_moves_down_onto_it():
    found, _ = parse("key", {"float": [0.0, 1.0], "step": 0.3})
    assert isinstance(found, Numeric)
    assert found.bounds(lambda key: None) == (0.0, pytest.approx(0.9))


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        ("seed", 3.0, "seed"),
        ("0.5 * seed", 1.5, "0.5 * seed"),
        ("2*seed", 6.0, "2 * seed"),
        ("seed + 0.25", 3.25, "seed + 0.25"),
        ("seed - 1", 2.0, "seed - 1"),
        ("1e-1 * seed - 1e-2", 0.29, "0.1 * seed - 0.01"),
        (4, 4, "4"),
        (-1e-3, -1e-3, "-0.001"),
    ],
)
def test_a_bound_is_a_number_or_a_multiple_of_a_key_with_an_offset(text, value, shown):
    found, _ = parse("key", {"float": [text, 100]})
    assert isinstance(found, Numeric)
    assert found.low.value(lambda key: 3.0) == pytest.approx(value)
    assert str(found.low) == shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ({"float": [1e-4, 0.1], "log": True}, "float 0.0001 to 0.1, log"),
        ({"float": ["pruning.k1", 0.9], "step": 0.1}, "float pruning.k1 to 0.9, step 0.1"),
        ({"int": [1, 16]}, "int 1 to 16"),
        ({"choice": ["a", 1, None, True, [8, 8]]}, "one of a, 1, null, true, [8, 8]"),
        (["a", "b"], "one of a, b"),
        ({"value": [8, 8]}, "fixed at [8, 8]"),
        (0.5, "fixed at 0.5"),
    ],
)
def test_a_distribution_reads_back_in_words(raw, shown):
    assert str(parse("key", raw)[0]) == shown


def test_a_list_is_a_choice_and_a_single_value_is_fixed():
    assert parse("key", [1, 2])[0] == Choice(key="key", values=(1, 2))
    assert parse("key", "a")[0] == Fixed(key="key", value="a")


def test_a_choice_of_lists_is_told_to_the_sampler_as_text_and_comes_back_as_lists():
    found, _ = parse("model.widths", [[4, 4], [8, 8]])
    assert isinstance(found, Choice)
    assert found.labels == ["[4, 4]", "[8, 8]"]
    assert found.suggest(Given({"model.widths": "[8, 8]"}), lambda key: None) == [8, 8]
    assert found.encode([4, 4], lambda key: None) == "[4, 4]"


@pytest.mark.parametrize(
    ("when", "value", "holds"),
    [
        ("growth == tiny", "tiny", True),
        ("growth == tiny", "none", False),
        ("growth != none", "none", False),
        ("growth in [tiny, random]", "random", True),
        ("growth not in [tiny, random]", "random", False),
        ("seed > 0.2", 0.3, True),
        ("seed > 0.2", 0.2, False),
        ("seed >= 1e-3", 0.001, True),
        ("seed < 3", None, False),
        ("seed <= 3", 3, True),
        ("data.flip == true", True, True),
        ("data.num_train == null", None, True),
        ("seed in [1e-3, 2]", 0.001, True),
    ],
)
def test_a_condition_compares_a_key_with_a_value(when, value, holds):
    _, conditions = parse("key", {"int": [1, 2], "when": when})
    assert [condition.holds(lambda key: value) for condition in conditions] == [holds]


def test_conditions_are_joined_by_and():
    _, conditions = parse("key", {"int": [1, 2], "when": "growth == tiny and pruning.k1 > 0.2"})
    assert conditions == [Condition("growth", "==", "tiny"), Condition("pruning.k1", ">", 0.2)]
    assert [str(c) for c in conditions] == ["growth == tiny", "pruning.k1 > 0.2"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"flaot": [0, 1]}, r"Unknown distribution of key: got .*flaot.*Did you mean 'float'"),
        ({}, r"Unknown distribution of key"),
        ({"float": [0, 1], "int": [0, 1]}, r"Unknown distribution of key"),
        ({"log": True}, r"Unknown distribution of key"),
        (
            {"float": [0, 1], "lgo": True},
            r"Unknown option 'lgo' of the distribution of key. Did you mean 'log'",
        ),
        ({"choice": [1], "log": True}, r"Unknown option 'log' of the distribution of key. Known: when"),
        ({"choice": []}, r"A choice for key needs a list of values; got \[\]"),
        ({"choice": "a"}, r"A choice for key needs a list of values; got a"),
        ([1, 2, 1], r"The choice for key names 1 twice"),
        ({"float": [1]}, r"float for key needs two bounds, \[LOW, HIGH\]; got \[1\]"),
        ({"int": 3}, r"int for key needs two bounds, \[LOW, HIGH\]; got 3"),
        ({"int": [1, 2.5]}, r"int for key needs whole bounds; got 2\.5"),
        ({"float": [0, True]}, r"A bound of key must be a number or refer to a key.*got true"),
        ({"float": [0, math.inf]}, r"A bound of key must be a number or refer to a key"),
        ({"float": [0, "seed * 2"]}, r"A bound of key must be a number or refer to a key.*got seed \* 2"),
        ({"float": ["0 * seed", 1]}, r"The factor of a bound of key must be positive; got 0 \* seed"),
        ({"float": [0, 1], "log": "yes"}, r"log of key must be true or false; got yes"),
        ({"float": [1, 2], "log": True, "step": 1}, r"log and step exclude each other; got both for key"),
        ({"float": [1, 2], "step": 0}, r"step of key must be a positive float; got 0"),
        ({"int": [1, 2], "step": 0.5}, r"step of key must be a positive int; got 0\.5"),
        ({"int": [1, 2], "when": "growth"}, r"Cannot read the condition of key: got when: growth\."),
        ({"int": [1, 2], "when": "growth = tiny"}, r"Cannot read the condition of key"),
        ({"int": [1, 2], "when": "growth in tiny"}, r"'in' in the condition of key needs a list"),
        ({"int": [1, 2], "when": "seed > many"}, r"'>' in the condition of key needs a number; got many"),
        ({"int": [1, 2], "when": "seed == [1"}, r"Cannot read '\[1' in the condition of key"),
    ],
)
def test_what_is_no_distribution_is_refused_by_key_and_value(raw, message):
    with pytest.raises(ConfigError, match=message):
        parse("key", raw)


@given(low=st.floats(0.1, 10), high=st.floats(0.1, 10))
def test_crossed_bounds_are_refused(low, high):
    assume(low > high)
    found, _ = parse("key", {"float": [low, high]})
    with pytest.raises(ConfigError, match="key a low bound above its high bound"):
        found.extent(lambda key: (math.nan, math.nan))


@pytest.mark.parametrize("low", [0, -1.0])
def test_a_logarithm_needs_values_above_zero(low):
    found, _ = parse("key", {"float": [low, 1], "log": True})
    with pytest.raises(ConfigError, match=r"searches key by its logarithm, which needs a low bound above 0"):
        found.extent(lambda key: (math.nan, math.nan))


@pytest.mark.parametrize("value", [0.1, 1.5, "a", True, None])
def test_a_value_outside_its_distribution_is_not_encoded(value):
    found, _ = parse("key", {"float": [0.2, 1]})
    assert isinstance(found, Numeric)
    with pytest.raises(ConfigError, match=r"key=.* lies outside its space"):
        found.encode(value, lambda key: None)


@given(seed=st.integers(0, 1000), low=st.integers(1, 20), width=st.integers(0, 20), step=st.integers(1, 5))
def test_random_suggestions_stay_inside(seed, low, width, step):
    trial, high = Random(seed), low + width
    assert low <= trial.suggest_float("a", low, high) <= high
    assert low <= trial.suggest_float("b", low, high, log=True) <= high
    assert low <= trial.suggest_int("c", low, high, log=True) <= high
    assert trial.suggest_int("d", low, high, step=step) in range(low, high + 1, step)
    assert trial.suggest_categorical("e", ["x", "y"]) in ("x", "y")
