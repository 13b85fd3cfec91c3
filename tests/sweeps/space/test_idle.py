"""Keys without effect: refused where they were asked for, told where only some trials have one."""

import re

import pytest

from growcore import keys
from sweeps.config.compose import load
from sweeps.config.errors import ConfigError
from sweeps.space import idle
from sweeps.space.search_space import SearchSpace

LR = "optimizer.lr={float: [1e-3, 1e-1]}"


def asked(words, searches=(LR,), fixes=()):
    config = load(["space=none", *words], searches=list(searches), fixes=list(fixes))
    space = SearchSpace.of(config)
    return idle.check(config, space), space


@pytest.mark.parametrize(
    ("words", "search"),
    [
        (["pruning=set", "growth=none"], "pruning.k1={float: [0.1, 0.5]}"),
        (["pruning=hebbian"], "pruning.density={float: [0.1, 0.5]}"),
        (["growth=random"], "growth.statistical_threshold={float: [0.1, 0.5]}"),
        (["growth=none"], "growth.num_neurons={int: [1, 5]}"),
        (["model=mlp"], "model.kernel_size={choice: [3, 5]}"),
        (["model=conv"], "model.blocks={choice: [[1], [2]]}"),
        (["pruning=hebbian", "pruning.strength=magnitude"], "pruning.activity_threshold={float: [0.5, 0.9]}"),
        ([], "training.min_improvement={float: [0.0, 0.1]}"),
        (["pruning=static"], "pruning.every_epochs={int: [1, 3]}"),
    ],
)
def test_a_search_over_a_key_that_does_nothing_is_refused_with_what_it_needs(words, search):
    key = search.partition("=")[0]
    needs = re.escape(str(keys.effects()[key]))
    with pytest.raises(
        ConfigError, match=rf"--search {re.escape(key)} has no effect: it needs {needs}, and "
    ):
        asked(words, [LR, search])


def test_a_search_that_no_choice_of_methods_gives_an_effect_is_refused():
    searches = ["pruning={choice: [none, set]}", "pruning.k1={float: [0.1, 0.5]}"]
    with pytest.raises(ConfigError, match=r"needs pruning.method in \[hebbian, random\], and no trial has"):
        asked([], searches)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["pruning=set", "pruning.k1=0.3"], "pruning.k1"),
        (["growth=zeros", "growth.normalization=none"], "growth.normalization"),
        (["model=mlp", "model.kernel_size=5"], "model.kernel_size"),
    ],
)
def test_a_typed_value_that_does_nothing_is_refused_before_anything_is_read(words, key):
    with pytest.raises(ConfigError, match=rf"{key} has no effect: it needs .*, and .* Leave it out"):
        load(words)


def test_a_typed_value_that_does_something_in_some_trials_is_told():
    notes, _ = asked(["pruning.density=0.3"], ["pruning={choice: [none, hebbian, set]}"])
    assert notes == [
        "pruning.density=0.3 has an effect only where pruning.method in "
        "[hebbian_exchange, set, rigl, gradual, static]"
    ]


def test_a_key_is_drawn_only_in_trials_in_which_its_method_has_it():
    searches = [
        "pruning={choice: [none, hebbian, set]}",
        "pruning.strength={choice: [magnitude, coactivation]}",
        "pruning.activity_threshold={float: [0.5, 0.9]}",
        "pruning.density={float: [0.1, 0.5]}",
    ]
    _, space = asked([], searches)
    seen = set()
    for values in space.sample(200):
        method = values["pruning"]
        assert ("pruning.density" in values) == (method == "set")
        assert ("pruning.strength" in values) == (method == "hebbian")
        with_threshold = method == "hebbian" and values["pruning.strength"] == "coactivation"
        assert ("pruning.activity_threshold" in values) == with_threshold
        seen.add((method, with_threshold))
    assert len(seen) == 4


def test_a_method_can_be_searched_by_its_key_alone():
    searches = ["pruning.method={choice: [hebbian, set]}", "pruning.k1={float: [0.1, 0.5]}"]
    _, space = asked([], searches)
    for values in space.sample(50):
        assert ("pruning.k1" in values) == (values["pruning.method"] == "hebbian")


def test_dead_neurons_may_be_removed_under_every_method():
    searches = ["pruning.remove_dead={choice: [true, false]}", "pruning.every_epochs={int: [1, 3]}"]
    _, space = asked(["pruning=none"], searches)
    for values in space.sample(50):
        assert ("pruning.every_epochs" in values) == values["pruning.remove_dead"]


def test_a_space_file_is_a_menu_whose_keys_without_effect_are_said_to_be_never_set():
    config = load(["space=grow_prune"], fixes=["pruning=none"])
    space = SearchSpace.of(config)
    assert idle.check(config, space) == []
    rows = {row.key: row.condition for row in space.describe()}
    assert rows["pruning.k1"] == "never: pruning.method is none"
    assert "pruning.k1" not in space.sample(1)[0]


def test_conditions_of_the_shipped_spaces_follow_from_the_methods():
    for name in ("grow", "grow_prune", "prune"):
        config = load([f"space={name}"])
        assert not any(isinstance(raw, dict) and "when" in raw for raw in config.space.values())
        space = SearchSpace.of(config)
        for values in space.sample(100):
            trial = space.apply(values)
            searched = [key for key in values if "." in key]
            assert keys.without_effect(trial, searched) == {}
