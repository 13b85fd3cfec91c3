"""Elements of lists are keys, and a list is searched by its entries: one axis each."""

from __future__ import annotations

import json
import re

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from growcore.config import TrialConfig
from sweeps.config.compose import load
from sweeps.config.errors import ConfigError
from sweeps.config.settings import SweepConfig, get_key, set_key
from sweeps.space import encoding, idle
from sweeps.space.search_space import SearchSpace
from sweeps.views import plan, words

CONV = load(["space=none", "growth=tiny"]).trial.to_dict()  # widths 8, 8, 8
WIDTH = {"int": [2, 24], "log": True}


def of(raw: dict, *typed: str, fixes: tuple[str, ...] = ()) -> tuple[SweepConfig, SearchSpace]:
    searches = [f"{key}={json.dumps(value)}" for key, value in raw.items()]
    config = load(["space=none", *typed], searches=searches, fixes=fixes)
    return config, SearchSpace.of(config)


def keys_of(space: SearchSpace) -> list[str]:
    return [dimension.key for dimension in space.dimensions]


# Elements


@given(st.lists(st.integers(1, 99), min_size=1, max_size=5), st.data())
def test_an_element_is_set_alone_and_the_list_it_was_in_stays_as_it_was(widths, data):
    index = data.draw(st.integers(0, len(widths) - 1))
    trial = {"model": {"widths": widths}}
    before = list(widths)
    set_key(trial, f"model.widths.{index}", 100)
    assert get_key(trial, "model.widths") == [*before[:index], 100, *before[index + 1 :]]
    assert get_key(trial, f"model.widths.{index}") == 100
    assert get_key(trial, f"model.widths.{len(widths)}") is None
    assert widths == before


@pytest.mark.parametrize(
    "typed", [["model.widths=[3,4]", "model.widths.1=12"], ["model.widths.1=12", "model.widths=[3,4]"]]
)
def test_an_element_goes_over_its_list_wherever_it_is_typed(typed):
    assert load(typed).trial.model.widths == [3, 12]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.widths.3=8", r"model\.widths\.3: model\.widths=\[8,8,8\] has 3 of them, .*\[8,8,8,8\]"),
        ("growth.max_width.0=8", r"growth\.max_width is null, no list\. .* growth\.max_width=\[null\]"),
        ("model.blocks.0=2", r"model\.blocks\.0 has no effect: it needs model\.name in \[resnet, vgg\]"),
        ("model.widths.one=8", r"Did you mean 'model\.widths\.0'\? Elements of model\.widths are"),
        ("model.widths[1]=8", r"Did you mean 'model\.widths\.1'\?"),
        ("model.widths.-1=8", r"Did you mean 'model\.widths\.0'\?"),
        ("model.width.1=8", r"Did you mean 'model\.widths\.1'\?"),
        ("model.kernel_size.0=3", r"'model\.kernel_size' is no list"),
        ("imports.0=mine", r"Unknown key 'imports\.0'"),
        ("model.widths.0=wide", r"model\.widths must be of type list\[int\]; got \['wide', 8, 8\]"),
    ],
)
def test_a_wrong_element_is_refused_with_what_would_be_right(word, message):
    with pytest.raises(ConfigError, match=message):
        load([word])


# Spaces

SPACES = [
    ({"model.widths.0": WIDTH}, ()),
    ({"model.widths": WIDTH}, ()),
    ({"model.widths": {**WIDTH, "length": 5}}, ()),
    ({"model.widths": {**WIDTH, "length": 2}, "model.widths.1": {"int": ["model.widths.0", 64]}}, ()),
    ({"model.widths": {"choice": [4, 8]}}, ("model.widths=[2,2]",)),
    ({"model": {"choice": ["mlp", "conv", "vgg"]}, "model.widths": {"int": [4, 64]}}, ()),
    ({"model": ["vgg", "resnet_small", "mlp"], "model.blocks": {"int": [1, 3]}}, ()),
    ({"growth": ["none", "tiny"], "growth.max_width": {"int": [16, 64], "length": 3}}, ()),
    ({"growth.max_width.1": {"int": [8, 64]}}, ("growth.max_width=[null,null,9]",)),
    ({"optimizer.lr": {"float": [0.01, 0.1], "when": "model.widths.0 > 8"}, "model.widths.0": WIDTH}, ()),
    ({"model.widths": {"value": [4, 4]}, "model.widths.1": WIDTH}, ()),
]


@pytest.fixture(scope="module", params=range(len(SPACES)))
def searched(request) -> tuple[SweepConfig, SearchSpace]:
    raw, typed = SPACES[request.param]
    return of(raw, *typed)


def test_a_trial_is_the_words_that_say_it(searched):
    config, space = searched
    for values in space.sample(4, seed=2):
        assert load([*config.overrides, *space.overrides(values)]).trial == space.apply(values)


def test_a_whole_trial_its_values_and_a_samplers_params_say_the_same(searched):
    config, space = searched
    again = SearchSpace.of(SweepConfig.from_dict(json.loads(json.dumps(config.to_dict()))))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        values = space.suggest(trial)
        assert {name.removesuffix(":unit") for name in trial.params} == {
            d.key for d in space.dimensions if d.key in values and d.key != "model.widths"
        }
        assert again.decode(trial.params) == values
        assert space.decode(space.encode(values)) == values
        options = {key: value for key, value in values.items() if key in ("model", "growth")}
        whole = encoding.of_trial(space, space.apply(values).to_dict(), options)
        assert space.decode(whole) == values
        given_params = encoding.given(space, {k: v for k, v in values.items() if k != "model.widths"})
        assert space.decode(given_params) == values


def test_an_entry_is_searched_in_the_trials_whose_list_has_it():
    _, space = of({"model": ["mlp", "conv"], "model.widths": {"int": [4, 64]}})
    assert [row.condition for row in space.describe()] == ["", "", "", "model.widths has 3 or more"]
    for values in space.sample(20):
        assert ("model.widths.2" in values) == (values["model"] == "conv")


def test_every_entry_is_an_axis_of_its_own_name_within_its_bounds():
    _, space = of({"model.widths": {"int": [4, 64], "length": 4}, "model.widths.2": {"int": [1, 3]}})
    assert keys_of(space) == [f"model.widths.{index}" for index in range(4)]
    for values in space.sample(50):
        config = space.apply(values)
        assert config.model.widths == list(values.values())
        assert config.model.widths[2] <= 3


@pytest.mark.parametrize("widths", [[1], [40, 3, 7]])
def test_a_bound_of_a_list_on_itself_means_the_same_entry(widths):
    base = {**CONV, "model": {**CONV["model"], "widths": widths}}
    space = SearchSpace({"model.widths": {"int": ["model.widths", "2 * model.widths"]}}, base)
    for values in space.sample(5):
        assert all(w <= new <= 2 * w for w, new in zip(widths, space.apply(values).model.widths, strict=True))


@pytest.mark.parametrize(
    ("raw", "fixes", "expected"),
    [
        ({"model.widths": WIDTH}, ("model.widths.0=4",), ["model.widths.1", "model.widths.2"]),
        (
            {"growth.max_width": {"int": [8, 9], "length": 3}},
            ("growth.max_width.1=16",),
            ["growth.max_width.0", "growth.max_width.2"],
        ),
    ],
)
def test_an_entry_that_is_fixed_is_the_same_in_all_trials(raw, fixes, expected):
    config, space = of(raw, fixes=fixes)
    key, _, value = fixes[0].partition("=")
    assert [key for key in keys_of(space) if key + "=" not in fixes[0]] == expected
    assert {get_key(space.apply(v).to_dict(), key) for v in space.sample(5)} == {int(value)}
    values = space.sample(1)[0]
    assert load([*config.overrides, *space.overrides(values)]).trial == space.apply(values)


def test_fixing_or_searching_a_list_takes_what_a_file_says_of_its_elements_out(tmp_path):
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "mine.yaml").write_text(
        "model.widths.0: {int: [2, 24]}\noptimizer.lr: [0.1, 0.2]\n"
    )
    fixed = load(["space=mine"], [tmp_path], fixes=["model.widths=[4,4]"])
    assert list(fixed.space) == ["optimizer.lr"]
    replaced = load(["space=mine"], [tmp_path], searches=["model.widths={int: [5, 6]}"])
    assert set(keys_of(SearchSpace.of(replaced))) == {
        "optimizer.lr",
        *(f"model.widths.{i}" for i in range(3)),
    }
    assert SearchSpace.of(load(["space=mine"], [tmp_path])).range("model.widths.0") == (2, 24)


@pytest.mark.parametrize(
    ("raw", "typed", "message"),
    [
        (
            {"model.widths.3": WIDTH},
            (),
            r"searches model\.widths\.3\. .*has 3 of them, model\.widths\.0 to model\.widths\.2",
        ),
        ({"growth.max_width.0": WIDTH}, (), r"growth\.max_width is null, no list"),
        ({"model.widths": [4, 8]}, (), r"may be read in two ways\. Write \{choice: \[4, 8\]\}"),
        (
            {"model.widths": {"int": [4, 8], "length": 0}},
            (),
            r"length of model\.widths must be a whole number",
        ),
        (
            {"model.widths": {"choice": [[4, 4], [8, 8]]}, "model.widths.0": WIDTH},
            (),
            r"whole and its element",
        ),
        (
            {"model.widths": {"choice": [[4, 4], [8, 8]]}},
            ("model.widths.0=3",),
            r"set whole .*--fix model\.widths=\[\.\.\.\]",
        ),
        ({"model.widths": WIDTH}, ("model.widths.0=3",), r"is searched .*--fix model\.widths\.0=3"),
        (
            {"model.widths": {**WIDTH, "length": 4}},
            ("model.widths=[3,3]",),
            r"as a list of 4 .*--fix model\.widths=\[3,3\]",
        ),
        (
            {"optimizer.lr": {"float": [0.1, "model.widths"]}},
            (),
            r"refers to model\.widths, which is no number",
        ),
        (
            {"optimizer.lr": {"float": [0.1, "model.widths.7"]}},
            (),
            r"refers to model\.widths\.7, which is no number",
        ),
        ({"model.widths.one": WIDTH}, (), r"Did you mean 'model\.widths\.0'\?"),
        (
            {"model": ["mlp", "conv"]},
            ("model.widths.2=3",),
            r"no element model\.widths\.2: model\.widths=\[16,16\]",
        ),
    ],
)
def test_a_space_that_cannot_mean_anything_is_refused(raw, typed, message):
    with pytest.raises(ConfigError, match=re.compile(message, re.DOTALL)):
        of(raw, *typed)


def test_a_searched_element_of_a_list_that_does_nothing_is_refused():
    config, space = of({"model.blocks.1": {"int": [1, 3]}, "optimizer.lr": [0.1, 0.2]})
    with pytest.raises(ConfigError, match=r"needs model\.name in \[resnet, vgg\], and model\.name is conv"):
        idle.check(config, space)


# Trials given by hand


def test_a_whole_list_given_by_hand_stands_for_its_searched_elements():
    _, space = of({"model.widths.0": WIDTH, "model.widths.2": WIDTH})
    assert encoding.typed(space, ["model.widths=[3,8,5]"]) == {"model.widths.0": 3, "model.widths.2": 5}
    assert encoding.typed(space, ["model.widths.2=4"]) == {"model.widths.2": 4}
    for wrong in ("[3,9,5]", "[3,8]", "[3,8,5,8]"):
        with pytest.raises(ConfigError, match=r"model\.widths=.* lies outside the space"):
            encoding.typed(space, [f"model.widths={wrong}"])
    with pytest.raises(ConfigError, match=r"model\.widths\.0=99 lies outside"):
        encoding.typed(space, ["model.widths=[99,8,5]"])


def test_a_trial_from_elsewhere_with_another_number_of_layers_is_no_trial_of_this_space():
    _, space = of({"model.widths": WIDTH})
    trial = TrialConfig.from_dict({**CONV, "model": {**CONV["model"], "widths": [4, 5]}}).to_dict()
    with pytest.raises(
        ConfigError, match=r"model\.widths=\[4,5\] lies outside its space: here it is a list of 3"
    ):
        encoding.of_trial(space, trial, {})


# For people


def test_the_plan_leaves_searched_entries_open_and_results_name_their_list():
    config, space = of({"model.widths.1": WIDTH})
    shown = dict(plan._trial(config, space))
    assert "widths=[8,?,8]" in shown["model"]
    assert "widths=" not in dict(plan._trial(*of({"model.widths": WIDTH})))["model"]
    assert words.chosen({"model.widths.1": 4, "seed": 3, "pruning.k1": 0.5}) == "widths.1 4, seed 3, k1 0.5"
