"""Every sampler: its options, its limits, and that it sees the space as it is."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from stand_in import trial_config

from sweeps.config.compose import options
from sweeps.config.errors import ConfigError
from sweeps.config.settings import SAMPLERS
from sweeps.kept.trials import Assignment, Outcome
from sweeps.search import Constraint, Goals, Key, SamplerSettings, Study, limits
from sweeps.search.samplers import build
from sweeps.space.search_space import SearchSpace

ONE = Goals()
TWO = Goals(objectives={"val/accuracy": "maximize", "model/parameters": "minimize"})
NUMBERS = [Key("a"), Key("b")]
MIXED = [*NUMBERS, Key("c", is_choice=True, is_finite=True), Key("d", is_conditional=True)]
MEMORY = "sqlite://"  # a database of its own for each study
CONF = Path(__file__).parents[3] / "conf"
HAS_CMAES = importlib.util.find_spec("cmaes") is not None


def space(**more: object) -> SearchSpace:
    """k2 from k1 up, beside a learning rate."""
    base = trial_config().to_dict()
    base["pruning"]["method"] = "hebbian"
    keys = {
        "optimizer.lr": {"float": [1e-3, 1.0], "log": True},
        "pruning.k1": {"float": [0.05, 0.9]},
        "pruning.k2": {"float": ["pruning.k1", 0.95]},
    }
    return SearchSpace({**keys, **more}, base)


def planted(values: dict[str, float]) -> float:
    """Best, 0, at k1 = 0.3 and k2 = 0.4."""
    return -abs(values["pruning.k1"] - 0.3) - abs(values["pruning.k2"] - 0.4)


def search(study: Study, searched: SearchSpace, num_trials: int) -> list[Assignment]:
    found = []
    for _ in range(num_trials):
        asked = study.ask(searched)
        assert isinstance(asked, Assignment)
        metrics = {"val/accuracy": planted(asked.params), "model/parameters": asked.params["optimizer.lr"]}
        study.complete(asked.number, metrics["val/accuracy"], Outcome(metrics=metrics))
        found.append(asked)
    return found


def test_there_is_a_file_for_every_sampler():
    assert set(options("search", [CONF])) == set(SAMPLERS)


SLOW = {"gp": [pytest.mark.slow]}


@pytest.mark.parametrize(
    "name", [pytest.param(s, marks=SLOW.get(s, [])) for s in SAMPLERS if s != "cmaes" or HAS_CMAES]
)
def test_equal_seeds_give_equal_suggestions(name):
    searched = space(**{"growth.num_neurons": {"value": 1}}) if name != "grid" else finite()

    def drawn(label: str) -> list[dict[str, float]]:
        study = Study.create(MEMORY, f"{name}-{label}", SamplerSettings(name=name, seed=5, options=few(name)))
        return [asked.params for asked in search(study, searched, 8)]

    assert drawn("a") == drawn("b")


def few(name: str) -> dict[str, int]:
    """Options that let a sampler begin to model within a few trials."""
    if name in ("tpe", "cmaes", "gp"):
        return {"n_startup_trials": 3}
    return {"population_size": 4} if name.startswith("nsga") else {}


def finite() -> SearchSpace:
    base = trial_config().to_dict()
    base["pruning"]["method"] = "hebbian"
    return SearchSpace(
        {
            "optimizer.lr": {"choice": [0.1, 0.2]},
            "pruning.k1": {"float": [0.1, 0.3], "step": 0.1},
            "pruning.k2": {"choice": [0.5, 0.6]},
        },
        base,
    )


@pytest.mark.slow
def test_grouped_suggestions_do_not_depend_on_the_order_of_hashes():
    code = (
        "import test_samplers as t\n"
        "how = t.SamplerSettings(seed=5, options={'n_startup_trials': 3})\n"
        "more = {'training.batch_size': {'int': [1, 9], 'when': 'pruning.k1 > 0.4'}}\n"
        "found = t.search(t.Study.create(t.MEMORY, 's', how), t.space(**more), 12)\n"
        "print([a.params for a in found])"
    )

    def run(seed: str) -> str:
        here, helpers, _, repository = Path(__file__).parents[:4]
        paths = os.pathsep.join(map(str, (here, helpers, repository)))
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        return done.stdout or done.stderr

    first = run("1")
    assert first.startswith("[{")
    assert first == run("2") == run("3")


def test_tpe_models_a_key_and_the_one_bounded_by_it():
    study = Study.create(MEMORY, "tpe", SamplerSettings(options={"n_startup_trials": 3}))
    search(study, space(), 5)
    inner = study._study
    modelled = inner.sampler.infer_relative_search_space(inner, inner.trials[-1])
    assert set(modelled) == {"optimizer.lr", "pruning.k1", "pruning.k2:unit"}


@pytest.mark.slow
def test_tpe_gathers_trials_around_a_planted_optimum_of_both():
    how = SamplerSettings(seed=1, options={"n_startup_trials": 10})
    found = search(Study.create(MEMORY, "planted", how), space(), 60)
    near = [
        abs(a.params["pruning.k1"] - 0.3) < 0.1 and abs(a.params["pruning.k2"] - 0.4) < 0.1 for a in found
    ]
    # A random trial falls there with a probability of about 0.05.
    assert sum(near[-20:]) >= 10
    assert sum(near[:10]) <= 3


def test_grid_runs_every_configuration_once():
    found = search(Study.create(MEMORY, "grid", SamplerSettings(name="grid")), finite(), 12)
    assert len({tuple(asked.params.values()) for asked in found}) == 12


@pytest.mark.parametrize("name", ["tpe", "nsga2", "gp"])
def test_constraints_reach_the_sampler(name):
    goals = Goals(constraints=(Constraint.read("model/parameters", "<= 0.05"),))
    study = Study.create(MEMORY, f"constraints-{name}", SamplerSettings(name=name), goals=goals)
    search(study, space(), 3)
    for trial in study._study.trials:
        broken = trial.constraints["model/parameters <= 0.05"] > 0
        assert broken == (trial.params["optimizer.lr"] > 0.05)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "tpe",
            {"n_ei": 3},
            r"search\.sampler=tpe has no option 'n_ei'\. Known: n_startup_trials, n_ei_cand",
        ),
        (
            "random",
            {"n_startup_trials": 3},
            r"has no option 'n_startup_trials'. It has none: search\.options={}",
        ),
        ("tpe", {"n_startup_trials": "3"}, r"options\.n_startup_trials must be of type int; got '3'"),
        ("tpe", {"n_startup_trials": True}, r"must be of type int; got True"),
        ("gp", {"seed": 3}, r"options\.seed: the seed of every sampler is search\.seed"),
        ("nsga2", {"crossover": "uniform"}, r"has no option 'crossover'"),
        ("nsga2", {"population_size": 1}, r"search\.sampler=nsga2: `population_size` must be greater"),
        ("qmc", {"qmc_type": "latin"}, r"search\.sampler=qmc: The `qmc_type='latin'` is invalid"),
        ("TPSampler", {}, r"Unknown search\.sampler=TPSampler\. Did you mean 'TPESampler'"),
        ("GridSampler", {}, r"GridSampler needs search_space, which cannot be written.*search=grid"),
        ("PartialFixedSampler", {}, r"needs fixed_params, base_sampler"),
    ],
)
def test_what_a_sampler_does_not_take_is_refused(name, given, message):
    with pytest.raises(ConfigError, match=message):
        build(SamplerSettings(name=name, options=given), 0)


def test_a_class_of_optuna_is_a_sampler():
    made = build(SamplerSettings(name="NSGAIISampler", options={"population_size": 6, "swapping_prob": 1}), 0)
    assert isinstance(made, optuna.samplers.NSGAIISampler)


@pytest.mark.parametrize(
    ("name", "keys", "goals", "notes"),
    [
        ("tpe", MIXED, TWO, []),
        ("random", MIXED, TWO, []),
        ("gp", MIXED, TWO, ["drawn at random, gp does not model them: d"]),
        ("qmc", NUMBERS, TWO, []),
        (
            "qmc",
            MIXED,
            ONE,
            ["qmc spreads the keys of the first trial; drawn at random where it lacks them: d"],
        ),
        ("grid", [MIXED[2]], TWO, []),
        ("nsga2", NUMBERS, TWO, ["all 20 trials are random: nsga2 evolves after population_size=50 trials"]),
    ],
)
def test_what_a_sampler_does_not_model_is_said(name, keys, goals, notes):
    assert limits(SamplerSettings(name=name), keys, goals, 20) == notes


def test_a_sampler_that_does_not_see_constraints_is_said():
    goals = Goals(constraints=(Constraint.read("model/parameters", "<= 3"),))
    assert limits(SamplerSettings(name="tpe"), NUMBERS, goals, 20) == []
    (note,) = limits(SamplerSettings(name="random"), NUMBERS, goals, 20)
    assert note.startswith("random does not see constraints")


def test_grid_refuses_what_has_no_end_of_values():
    with pytest.raises(ConfigError, match=r"no end of values: a, b, d\. Give a step"):
        limits(SamplerSettings(name="grid"), MIXED, ONE, 20)


@pytest.mark.skipif(HAS_CMAES, reason="cmaes is installed")
def test_cmaes_names_the_package_it_needs():
    with pytest.raises(ConfigError, match=r"search\.sampler=cmaes needs a package: pip install cmaes"):
        limits(SamplerSettings(name="cmaes"), NUMBERS, ONE, 20)


@pytest.mark.skipif(not HAS_CMAES, reason="needs cmaes")
@pytest.mark.parametrize(
    ("keys", "goals", "message"),
    [
        (NUMBERS, TWO, r"cmaes has one objective; got val/accuracy, model/parameters"),
        ([NUMBERS[0], *MIXED[2:]], ONE, r"cmaes needs at least two numbers that every trial has; got a"),
    ],
)
def test_cmaes_refuses_what_it_cannot_search(keys, goals, message):
    with pytest.raises(ConfigError, match=message):
        limits(SamplerSettings(name="cmaes"), keys, goals, 20)


@pytest.mark.skipif(not HAS_CMAES, reason="needs cmaes")
def test_cmaes_says_what_it_draws_at_random():
    notes = limits(SamplerSettings(name="cmaes"), MIXED, ONE, 20)
    assert notes == ["drawn at random, cmaes does not model them: c, d"]
