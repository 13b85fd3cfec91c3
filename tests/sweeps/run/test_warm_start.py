"""What a search starts from: trials given by hand, exported trials, earlier sweeps."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given as any_of
from hypothesis import strategies as st
from stand_in import RANDOM

from sweeps.config import compose
from sweeps.config.errors import ConfigError
from sweeps.config.settings import SweepConfig
from sweeps.kept.trials import Assignment, Outcome, TrialRow
from sweeps.records.disk import EarlierSweep
from sweeps.run import checks, warm_start
from sweeps.search import Goals, SamplerSettings, Study
from sweeps.space import encoding
from sweeps.space.search_space import SearchSpace

SPACE = {
    "optimizer.lr": {"float": [1e-3, 1.0], "log": True},
    "growth": {"choice": ["none", "random"]},
    "growth.num_neurons": {"int": [1, 8], "when": "growth != none"},
    "pruning.k1": {"float": [0.05, 0.9]},
    "pruning.k2": {"float": ["pruning.k1", 0.95]},
}
MEMORY = "sqlite://"


@functools.cache
def base() -> SweepConfig:
    """Composing takes a second, so it is done once."""
    searches = ["growth={choice: [none, random]}"]
    return compose.load(["model=mlp", "space=none"], searches=searches)


def config(space: dict[str, Any] | None = None, **search: Any) -> SweepConfig:
    values = base().to_dict()
    values["space"] = SPACE if space is None else space
    values["search"] |= search
    return SweepConfig.from_dict(values)


@functools.cache
def shared() -> SearchSpace:
    return SearchSpace.of(config())


def space_of(raw: dict[str, Any] | None = None) -> SearchSpace:
    return shared() if raw is None else SearchSpace.of(config(raw))


def without(*keys: str, **changed: Any) -> dict[str, Any]:
    return {key: value for key, value in SPACE.items() if key not in keys} | changed


def run(space: SearchSpace, num_trials: int, name: str = "old") -> list[TrialRow]:
    study = Study.create(MEMORY, name, RANDOM)
    for number in range(num_trials):
        asked = study.ask(space)
        assert isinstance(asked, Assignment)
        study.complete(number, number / 10, Outcome(metrics={"val/accuracy": number / 10}))
    return study.rows()


def source(raw: dict[str, Any] | None = None, num_trials: int = 6) -> EarlierSweep:
    return EarlierSweep(name="old", config=config(raw), rows=run(space_of(raw), num_trials))


# Given by hand


@any_of(seed=st.integers(0, 999))
def test_a_whole_trial_given_by_hand_is_the_trial_that_is_drawn(seed):
    space = space_of()
    (values,) = space.sample(1, seed)
    drawn = space.decode(encoding.given(space, values))
    assert drawn == pytest.approx(values)


def test_keys_left_out_are_drawn_and_those_given_stay():
    space = space_of()
    study = Study.create(MEMORY, "s", RANDOM)
    study.enqueue(encoding.typed(space, ["growth=random", "growth.num_neurons=5", "pruning.k1=0.3"]))
    asked = study.ask(space)
    assert isinstance(asked, Assignment)
    assert asked.params["growth.num_neurons"] == 5
    assert asked.params["pruning.k1"] == 0.3
    assert 0.3 <= asked.params["pruning.k2"] <= 0.95


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=5"], r"optimizer\.lr=5 lies outside its space: float 0\.001 to 1, log"),
        (["pruning.k1=0.3", "pruning.k2=0.2"], r"pruning\.k2=0\.2 lies outside.*is 0\.3 to 0\.95 here"),
        (["pruning.k2=0.5"], r"not known without pruning\.k1\. Give pruning\.k1 as well"),
        (["growth.num_neurons=3"], r"growth\.num_neurons has no effect in this trial: growth != none"),
        (["growth=none", "growth.num_neurons=3"], r"growth\.num_neurons has no effect in this trial"),
        (["growth=tiny"], r"growth=tiny lies outside its space: one of none, random"),
        (["optimizer.momentum=0.5"], r"optimizer\.momentum is not searched here\. Searched: "),
        (["optimizer.lr"], r"Cannot read 'optimizer\.lr': write KEY=VALUE"),
    ],
)
def test_what_is_not_of_the_space_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        encoding.typed(space_of(), words)


# Tried first


def test_trials_to_try_first_come_first_and_in_order():
    wanted = config(first=[{"optimizer.lr": 0.5}, {"optimizer.lr": 0.25}])
    study = Study.create(MEMORY, "s", RANDOM)
    warm_start.prepare(study, wanted, SearchSpace.of(wanted), [])
    rates = [study.ask(SearchSpace.of(wanted)).params["optimizer.lr"] for _ in range(3)]
    assert rates[:2] == [0.5, 0.25]
    assert rates[2] not in (0.5, 0.25)


def test_an_exported_trial_is_tried_first(tmp_path):
    space = space_of()
    values = next(v for v in space.sample(99) if v["growth"] == "random")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "mine.yaml").write_text(yaml.safe_dump(space.apply(values).to_dict()))
    wanted = replace(config(first=["best/mine"]), config_dirs=[str(tmp_path)])
    (params,) = encoding.first(wanted, space)
    assert space.decode(params) == pytest.approx(values)


def test_a_trial_to_try_first_that_is_not_of_the_space_is_named():
    wanted = config(first=[{"optimizer.lr": 7}])
    with pytest.raises(
        ConfigError, match=r"search\.first, \{'optimizer\.lr': 7\}: optimizer\.lr=7 lies outside"
    ):
        checks.check_search(wanted, SearchSpace.of(wanted))


def test_an_unknown_exported_trial_is_refused():
    wanted = config(first=["best/nobody"])
    with pytest.raises(ConfigError, match=r"search\.first, best/nobody: There is no best=nobody"):
        checks.check_search(wanted, SearchSpace.of(wanted))


# Earlier sweeps


def new_study(wanted: SweepConfig, *sources: EarlierSweep) -> tuple[Study, list[str]]:
    how = SamplerSettings(options={"n_startup_trials": 3})
    study = Study.create(MEMORY, "new", how, goals=Goals.of(wanted.search))
    return study, warm_start.prepare(study, wanted, SearchSpace.of(wanted), sources)


def test_the_sampler_knows_what_an_earlier_sweep_found():
    old = source()
    study, notes = new_study(config(), old)
    known = study._study.trials
    assert [trial.value for trial in known] == [row.value for row in old.rows]
    decoded = [space_of().decode(trial.params) for trial in known]
    assert decoded == [pytest.approx(row.params) for row in old.rows]
    assert notes == ["from old: the sampler knows 6 trials"]


def test_trials_of_an_earlier_sweep_are_not_the_sweeps_own():
    study, _ = new_study(config(), source())
    assert study.rows() == study.rank() == []
    assert study.num_asked() == 0
    assert study.ask(space_of()).number == 6


def test_preparing_twice_changes_nothing():
    wanted, old = config(first=[{"optimizer.lr": 0.5}]), source()
    study, _ = new_study(wanted, old)
    num = len(study._study.trials)
    assert warm_start.prepare(study, wanted, SearchSpace.of(wanted), [old]) == []
    study._study.set_user_attr("prepared", False)  # the driver died before it noted that it was done
    warm_start.prepare(study, wanted, SearchSpace.of(wanted), [old])
    assert len(study._study.trials) == num


def test_a_key_that_only_the_new_sweep_searches_has_its_earlier_value():
    old = source(without("pruning.k2", **{"pruning.k1": {"float": [0.05, 0.6]}}))
    study, _ = new_study(config(), old)
    earlier = base().trial.pruning.k2
    kept = [trial for trial in study._study.trials if "pruning.k2:unit" in trial.params]
    assert kept
    assert {round(space_of().decode(t.params)["pruning.k2"], 9) for t in kept} == {earlier}


def test_a_key_that_is_searched_no_more_is_said():
    _, notes = new_study(config(without("optimizer.lr")), source())
    assert notes == ["from old: the sampler knows 6 trials; not the same here: optimizer.lr"]


def test_trials_outside_the_new_space_are_left_out_and_said():
    old = source(num_trials=12)
    narrow = {"float": [0.05, 0.4]}
    study, (note,) = new_study(config(without(**{"pruning.k1": narrow})), old)
    inside = [row for row in old.rows if row.params["pruning.k1"] <= 0.4]
    assert 0 < len(inside) < 12
    assert len(study._study.trials) == len(inside)
    assert f"knows {len(inside)} trial" in note
    assert f"{12 - len(inside)} left out: pruning.k1=" in note


def test_a_sweep_of_which_nothing_fits_is_refused():
    wanted = config(without(**{"optimizer.lr": {"float": [2.0, 3.0]}}))
    with pytest.raises(
        ConfigError, match=r"search\.warm_start: old has no trial.*optimizer\.lr=.*lies outside"
    ):
        new_study(wanted, source())


def test_a_sweep_on_other_data_is_refused():
    old = source()
    rows = [
        replace(row, config=row.config | {"data": {**row.config["data"], "name": "mnist"}})
        for row in old.rows
    ]
    with pytest.raises(ConfigError, match=r"old trained on other data \(data\.name differ\)"):
        new_study(config(), replace(old, rows=rows))


def test_a_sweep_without_an_objective_of_this_one_is_refused():
    wanted = config(further_objectives={"model/parameters": "minimize"})
    with pytest.raises(ConfigError, match=r"model/parameters is not reported; reported: val/accuracy"):
        new_study(wanted, source())
