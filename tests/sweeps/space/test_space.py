"""A search space gives only valid trials, and says in words exactly what it gave."""

from __future__ import annotations

import json
import math
import pickle
import re
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from growcore.config import TrialConfig
from sweeps.config.compose import load
from sweeps.config.errors import ConfigError
from sweeps.config.settings import SweepConfig
from sweeps.space.search_space import SearchSpace
from sweeps.space.value_sources import Given

SPACES = sorted(
    p.stem for p in (Path(__file__).parents[3] / "conf" / "space").glob("*.yaml") if p.stem != "none"
)
BASE = load(["space=none"]).trial.to_dict()


def space(raw: dict, overrides: tuple[str, ...] = ("space=none",)) -> SearchSpace:
    """A space over the default trial, its groups composed where they are searched."""
    words = [f"{key}={json.dumps(value)}" for key, value in raw.items()]
    return SearchSpace.of(load(overrides, searches=words))


@pytest.fixture(scope="module", params=SPACES)
def shipped(request) -> tuple[SweepConfig, SearchSpace]:
    config = load([f"space={request.param}"])
    return config, SearchSpace.of(config)


# Laws of every shipped space


@pytest.mark.slow
def test_every_suggestion_is_a_valid_trial(shipped):
    _, searched = shipped
    samples = searched.sample(2000, seed=1)
    assert all(isinstance(searched.apply(values), TrialConfig) for values in samples)
    assert len({str(values) for values in samples}) > 1900


def test_a_trial_is_the_words_that_say_it(shipped):
    config, searched = shipped
    for values in searched.sample(3, seed=2):
        assert load([*config.overrides, "space=none", *searched.overrides(values)]).trial == searched.apply(
            values
        )


def test_what_a_sampler_saw_gives_the_same_values_again(shipped):
    _, searched = shipped
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        trial = study.ask()
        values = searched.suggest(trial)
        assert searched.decode(trial.params) == values
        assert searched.suggest(optuna.trial.FixedTrial(trial.params)) == values


def test_encoding_values_and_decoding_them_gives_them_back(shipped):
    _, searched = shipped
    for values in searched.sample(300, seed=3):
        back = searched.decode(searched.encode(values))
        assert list(back) == list(values)
        for key, value in values.items():
            assert back[key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def test_the_same_seed_gives_the_same_trials(shipped):
    _, searched = shipped
    assert searched.sample(5, seed=4) == searched.sample(5, seed=4)
    assert searched.sample(5, seed=4) != searched.sample(5, seed=5)


def test_every_searched_key_is_set_in_some_trial_and_described(shipped):
    _, searched = shipped
    keys = [dimension.key for dimension in searched.dimensions]
    assert {key for values in searched.sample(500) for key in values} == set(keys)
    assert [row.key for row in searched.describe()] == keys


def test_a_space_written_down_with_its_sweep_gives_the_same_trials(shipped):
    config, searched = shipped
    again = SearchSpace.of(SweepConfig.from_dict(config.to_dict()))
    values = searched.sample(5)
    assert again.sample(5) == values
    assert [again.apply(v) for v in values] == [searched.apply(v) for v in values]


def test_a_space_can_be_sent_to_another_process(shipped):
    _, searched = shipped
    assert pickle.loads(pickle.dumps(searched)).sample(3) == searched.sample(3)


def test_applying_changes_nothing_that_trials_share(shipped):
    _, searched = shipped
    values = searched.sample(20, seed=6)
    before = [searched.apply(v) for v in values]
    assert [searched.apply(v) for v in reversed(values)] == before[::-1]


def test_the_demo_searches_learning_rate_k1_k2_threshold_growth_interval_and_neurons():
    assert [d.key for d in SearchSpace.of(load(["space=demo"])).dimensions] == [
        "optimizer.lr",
        "pruning.k1",
        "pruning.k2",
        "pruning.activity_threshold",
        "growth.every_epochs",
        "growth.num_neurons",
    ]


# Bounds


@given(k1=st.floats(0.05, 0.6), unit=st.floats(0, 1))
def test_k2_is_never_below_k1_nor_above_its_high_bound(k1, unit):
    searched = SearchSpace(K1_K2, BASE)
    values = searched.decode({"pruning.k1": k1, "pruning.k2:unit": unit})
    assert k1 == values["pruning.k1"] <= values["pruning.k2"] <= 0.9
    assert searched.apply(values).pruning.k2 == values["pruning.k2"]


K1_K2 = {"pruning.k2": {"float": ["pruning.k1", 0.9]}, "pruning.k1": {"float": [0.05, 0.6]}}


def test_a_bound_on_another_key_is_a_unit_fraction_of_what_is_left():
    values = SearchSpace(K1_K2, BASE).decode({"pruning.k1": 0.3, "pruning.k2:unit": 0.25})
    assert values["pruning.k2"] == pytest.approx(0.3 + 0.25 * 0.6)


def test_a_referred_key_is_suggested_first_wherever_it_is_written():
    assert [d.key for d in SearchSpace(K1_K2, BASE).dimensions] == ["pruning.k1", "pruning.k2"]


def test_a_bound_may_refer_to_a_key_that_is_not_searched():
    searched = space({"pruning.k2": {"float": ["pruning.k1", 1.0]}}, ("space=none", "pruning.k1=0.4"))
    values = [v["pruning.k2"] for v in searched.sample(200)]
    assert 0.4 <= min(values) < 0.45
    assert 0.95 < max(values) <= 1.0


def test_a_key_that_refers_to_itself_is_searched_around_what_trials_share():
    searched = space(
        {"optimizer.lr": {"float": ["0.5 * optimizer.lr", "2 * optimizer.lr"], "log": True}},
        ("space=none", "optimizer.lr=0.1"),
    )
    values = [v["optimizer.lr"] for v in searched.sample(300)]
    assert 0.05 <= min(values) < 0.052
    assert 0.19 < max(values) <= 0.2
    assert math.exp(sum(map(math.log, values)) / 300) == pytest.approx(0.1, rel=0.05)


def test_a_bound_sees_the_value_of_the_chosen_group(tmp_path):
    for name, num in (("few", 2), ("many", 32)):
        (tmp_path / "growth").mkdir(exist_ok=True)
        (tmp_path / "growth" / f"{name}.yaml").write_text(f"method: random\nnum_neurons: {num}\n")
    searches = [
        "growth=[few, many]",
        "growth.num_neurons={int: [growth.num_neurons, 2 * growth.num_neurons]}",
    ]
    searched = SearchSpace.of(load(["space=none"], [tmp_path], searches=searches))
    seen = {(v["growth"], v["growth.num_neurons"]) for v in searched.sample(2000)}
    assert seen == {("few", n) for n in range(2, 5)} | {("many", n) for n in range(32, 65)}


def test_a_chain_of_bounds_is_followed():
    searched = SearchSpace(
        {
            "pruning.activity_threshold": {"float": ["pruning.k2", 0.95]},
            "pruning.k2": {"float": ["pruning.k1", 0.9]},
            "pruning.k1": {"float": [0.5, 0.6]},
        },
        BASE,
    )
    for v in searched.sample(200):
        assert v["pruning.k1"] <= v["pruning.k2"] <= v["pruning.activity_threshold"] <= 0.95


# Groups, conditions and fixed values


def test_a_key_is_set_only_where_its_condition_holds():
    searched = space(
        {
            "growth": ["none", "tiny", "random"],
            "growth.statistical_threshold": {"float": [1e-5, 0.1], "log": True, "when": "growth == tiny"},
            "growth.num_neurons": {"int": [1, 16]},
        }
    )
    samples = searched.sample(300)
    assert {v["growth"] for v in samples} == {"none", "tiny", "random"}
    for v in samples:
        assert ("growth.statistical_threshold" in v) == (v["growth"] == "tiny")
        assert ("growth.num_neurons" in v) == (v["growth"] != "none")


def test_a_condition_on_a_searched_number_sees_its_value():
    searched = space(
        {"seed": {"int": [0, 9], "when": "pruning.k1 > 0.3"}, "pruning.k1": {"float": [0.1, 0.5]}}
    )
    for v in searched.sample(200):
        assert ("seed" in v) == (v["pruning.k1"] > 0.3)


def test_a_condition_on_a_group_that_is_not_searched_sees_its_option():
    raw = {"seed": {"int": [0, 9]}, "training.batch_size": {"choice": [32, 64], "when": "optimizer == adam"}}
    assert "training.batch_size" in space(raw, ("space=none", "optimizer=adam")).sample(1)[0]
    off = space(raw)
    assert "training.batch_size" not in off.sample(1)[0]
    assert {r.key: r.condition for r in off.describe()} == {
        "seed": "",
        "training.batch_size": "never: optimizer is sgd",
    }


def test_growth_and_pruning_settings_exist_only_where_the_method_is_on():
    raw = {"pruning.k1": {"float": [0.1, 0.5]}, "growth.num_neurons": {"int": [1, 4]}}
    assert list(space(raw, ("space=none", "pruning=none")).sample(1)[0]) == ["growth.num_neurons"]
    by_key = space({"pruning.method": ["none", "hebbian"], **raw})
    for v in by_key.sample(100):
        assert ("pruning.k1" in v) == (v["pruning.method"] == "hebbian")


def test_a_chosen_group_brings_its_own_values_and_typed_ones_stay():
    searched = space({"optimizer": ["sgd", "adamw"]}, ("space=none", "optimizer.momentum=0.5"))
    trial = searched.apply({"optimizer": "adamw"})
    assert trial.optimizer == load(["optimizer=adamw", "optimizer.momentum=0.5"]).trial.optimizer
    assert (trial.optimizer.lr, trial.optimizer.momentum) == (1e-3, 0.5)


def test_fixed_values_are_in_every_trial_and_unseen_by_the_sampler():
    searched = space({"pruning.k2": 0.9, "growth": "random", "pruning.k1": {"float": [0.1, 0.8]}})
    values = searched.decode({"pruning.k1": 0.2})
    assert values == {"growth": "random", "pruning.k2": 0.9, "pruning.k1": 0.2}
    trial = searched.apply(values)
    assert (trial.growth.method, trial.pruning.k2) == ("random", 0.9)
    assert searched.encode(values) == {"pruning.k1": 0.2}


def test_widths_can_be_searched():
    searched = space({"model.widths": [[4, 4], [8, 8, 8]]})
    assert {tuple(searched.apply(v).model.widths) for v in searched.sample(50)} == {(4, 4), (8, 8, 8)}


# Wrong spaces


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"pruning.k3": {"float": [0, 1]}},
            r"'pruning\.k3', which is no trial key\. Known: .*pruning\.k1, pruning\.k2,",
        ),
        ({"optimizer": {"lr": {"float": [0, 1]}}}, r"Unknown distribution of optimizer"),
        ({"growth": {"int": [0, 1]}}, r"The group growth is chosen whole: write \{choice:"),
        ({"growth": ["none", "tinny"]}, r"Unknown option growth=tinny in the space\. Did you mean 'tiny'"),
        ({"growth": [["tiny"]]}, r"Unknown option growth=\['tiny'\] in the space"),
        ({"seed": {"int": [3, 1]}}, r"gives seed a low bound above its high bound: got int 3 to 1"),
        (
            {"pruning.k1": {"float": [0.1, 0.8]}, "pruning.k2": {"float": ["pruning.k1", 0.7]}},
            r"gives pruning\.k2 a low bound above .*low reaches 0\.8 and high falls to 0\.7",
        ),
        ({"optimizer.lr": {"float": [0, 1], "log": True}}, r"optimizer\.lr by its logarithm"),
        (
            {"pruning.k2": {"float": ["pruning.k9", 1]}},
            r"bound of pruning\.k2 refers to unknown key 'pruning\.k9'",
        ),
        ({"pruning.k2": {"float": ["pruning", 1]}}, r"bound of pruning\.k2 refers to unknown key 'pruning'"),
        (
            {"seed": {"int": [0, 1], "when": "grwth == tiny"}},
            r"condition of seed refers to unknown key 'grwth'",
        ),
        ({"seed": {"int": ["model.activation", 9]}}, r"refers to model\.activation, which is no number"),
        ({"seed": {"int": ["data.num_train", 9]}}, r"refers to data\.num_train, which is no number"),
        (
            {"pruning.k1": {"float": [0, "pruning.k2"]}, "pruning.k2": {"float": ["pruning.k1", 1]}},
            r"refers in a circle: pruning\.k1 -> pruning\.k2 -> pruning\.k1",
        ),
        (
            {"pruning.k1": 0.5},
            r"The space is empty: every key is fixed or switched off\. pruning\.k1: fixed at 0\.5",
        ),
        ({"growth.num_neurons": {"float": [1, 4]}}, r"growth\.num_neurons must be of type int; got"),
        (
            {"pruning.activity_threshold": {"float": [0.1, 0.9]}},
            r"gives a trial that is not valid: pruning\.activity_threshold must lie in \[0\.5, 1\).*=0\.1",
        ),
        (
            {"pruning.scope": ["layer", "chanel"]},
            r"pruning\.scope='chanel' is not one of.*Did you mean 'channel'",
        ),
        ({"pruning.k1": {"float": [0.5, 0.9]}}, r"not valid: pruning\.k1 must not exceed pruning\.k2"),
    ],
)
def test_a_wrong_space_is_refused_before_anything_starts(raw, message):
    with pytest.raises(ConfigError, match=re.compile(message, re.DOTALL)):
        space(raw)


def test_an_empty_space_is_refused():
    with pytest.raises(ConfigError, match=r"The space 'none' is empty.*space=demo.*--search optimizer\.lr="):
        SearchSpace.of(load(["space=none"]))


def test_a_space_that_is_switched_off_is_empty():
    with pytest.raises(ConfigError, match=r"The space is empty.*never: growth\.method is none"):
        space({"growth.num_neurons": {"int": [1, 4]}}, ("space=none", "growth=none"))


@pytest.mark.parametrize(
    ("word", "search"),
    [("pruning.k1=0.4", "pruning.k1={float: [0.1, 0.5]}"), ("growth=tiny", "growth=[none, tiny]")],
)
def test_a_key_both_typed_and_searched_is_refused(word, search):
    config = load([word, "space=none"], searches=[search])
    with pytest.raises(ConfigError, match=rf"{word} would have no effect.*--fix {word}"):
        SearchSpace.of(config)


def test_a_group_whose_files_set_other_parts_cannot_be_searched(tmp_path):
    (tmp_path / "growth").mkdir()
    (tmp_path / "growth" / "wide.yaml").write_text(
        "# @package _global_\ndata: {num_train: 5}\ngrowth: {method: tiny}\n"
    )
    with pytest.raises(ConfigError, match=r"growth=wide also sets 'data', so the group cannot be searched"):
        load(["space=none"], [tmp_path], searches=["growth=[none, wide]"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"The space searches pruning\.k1, which got no value: add pruning\.k1=VALUE"),
        (
            {"pruning.k1": 0.9, "pruning.k2": 0.9},
            r"pruning\.k1=0\.9 lies outside its space: float 0\.05 to 0\.6",
        ),
        (
            {"pruning.k1": 0.5, "pruning.k2": 0.4},
            r"pruning\.k2=0\.4 lies outside its space.*0\.5 to 0\.9 here",
        ),
        ({"pruning.k1": 0.5, "pruning.k2": 0.6, "seed": 1}, r"seed is not searched here"),
    ],
)
def test_values_outside_the_space_are_not_encoded(values, message):
    with pytest.raises(ConfigError, match=message):
        SearchSpace(K1_K2, BASE).encode(values)


def test_params_that_are_missing_are_an_error():
    with pytest.raises(KeyError, match=r"pruning\.k2:unit"):
        SearchSpace(K1_K2, BASE).suggest(Given({"pruning.k1": 0.3}))
