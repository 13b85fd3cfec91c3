"""The study: what it hands out, how trials end, and that nothing is told twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in import RANDOM, LearningRates, trial_config

from sweeps.config.errors import ConfigError
from sweeps.kept.budget import Budget
from sweeps.kept.trials import Outcome, TrialState
from sweeps.search import Constraint, Exhausted, Goals, SamplerSettings, Study, list_studies, study_url

SPACE = LearningRates()
MEMORY = "sqlite://"  # where nothing is loaded again


@pytest.fixture
def url(tmp_path: Path) -> str:
    return study_url(tmp_path)


def test_equal_seeds_and_orders_give_equal_parameters(url):
    def params(name: str) -> list[float]:
        study = Study.create(url, name, SamplerSettings(seed=3, options={"n_startup_trials": 2}))
        drawn = []
        for _ in range(5):
            assignment = study.ask(SPACE)
            drawn.append(assignment.params["optimizer.lr"])
            study.complete(assignment.number, -abs(drawn[-1] - 0.1), Outcome())
        return drawn

    assert params("a") == params("b")


def test_a_loaded_study_does_not_draw_its_first_trials_again(url):
    first = Study.create(url, "a", SamplerSettings(name="random", seed=3))
    drawn = [first.ask(SPACE).params["optimizer.lr"] for _ in range(3)]
    again = Study.load(url, "a", SamplerSettings(name="random", seed=3))
    more = [again.ask(SPACE).params["optimizer.lr"] for _ in range(3)]
    assert not set(drawn) & set(more)


def test_a_resumed_sampler_suggests_nothing_a_second_time(url):
    """Repeated suggestions are never handed out, which would hide a sampler that begins again."""
    sampler = SamplerSettings(name="random", seed=3)
    for run in range(3):
        study = Study.load(url, "a", sampler) if run else Study.create(url, "a", sampler)
        for _ in range(3):
            study.ask(SPACE)
    suggested = study._study.get_trials(deepcopy=False)
    assert (
        len({trial.params["optimizer.lr"] for trial in suggested}) == len(suggested) == study.num_asked() == 9
    )


def test_orphans_keep_their_numbers_and_parameters(url):
    study = Study.create(url, "a")
    asked = [study.ask(SPACE) for _ in range(3)]
    study.complete(1, 0.5, Outcome())
    assert Study.load(url, "a").orphans(SPACE) == [asked[0], asked[2]]


def test_a_trial_orphaned_before_its_parameters_were_drawn_is_drawn_once(url):
    study = Study.create(url, "a")
    study._study.ask()  # the driver died here
    first = Study.load(url, "a", SamplerSettings(seed=1)).orphans(SPACE)
    second = Study.load(url, "a", SamplerSettings(seed=2)).orphans(SPACE)
    assert [o.number for o in first] == [0]
    assert first == second


def test_telling_twice_keeps_the_first_outcome(url):
    study = Study.create(url, "a")
    study.ask(SPACE)
    study.complete(0, 0.9, Outcome(step=5))
    study.complete(0, 0.1, Outcome(step=7))
    study.fail(0, "too late", Outcome())
    row = study.row(0)
    assert (row.state, row.value, row.outcome.step, row.reason) == (TrialState.complete, 0.9, 5, None)


def test_a_stopped_trial_keeps_the_value_it_had_reached(url):
    study = Study.create(url, "a")
    study.ask(SPACE)
    study.stop(0, 0.4, 3, Outcome(epoch=3), "behind other trials")
    row = study.row(0)
    assert (row.state, row.value, row.reason) == (TrialState.stopped, 0.4, "behind other trials")
    assert study.rank() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_objective_that_is_not_finite_fails_the_trial(url, value):
    study = Study.create(url, "a")
    study.ask(SPACE)
    study.complete(0, value, Outcome())
    assert study.row(0).state is TrialState.failed
    assert study.row(0).reason == f"val/accuracy is {value}"


def test_contradicting_parameters_are_a_failed_trial_with_the_reason(url):
    study = Study.create(url, "a")
    assert study.ask(LearningRates(forbidden=0.0)) == study.row(0)
    assert study.row(0).state is TrialState.failed
    assert study.row(0).reason.endswith("is above 0.0.")


def test_a_row_gives_back_all_that_was_told(url):
    study = Study.create(url, "a")
    assignment = study.ask(SPACE)
    outcome = Outcome(
        metrics={"val/accuracy": 0.9}, step=40, epoch=4.0, num_grown=3, num_pruned=2, checkpoint="x"
    )
    study.complete(0, 0.9, outcome)
    row = Study.load(url, "a").row(0)
    assert row.outcome == outcome
    assert (row.params, row.overrides, row.config) == (
        assignment.params,
        assignment.overrides,
        assignment.config,
    )
    assert row.seconds >= 0


@settings(max_examples=10, deadline=None)
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=5), maximize=st.booleans())
def test_rank_orders_complete_trials_by_the_direction(values, maximize):
    direction = "maximize" if maximize else "minimize"
    study = Study.create(MEMORY, "a", RANDOM, goals=Goals(objectives={"val/accuracy": direction}))
    for number, value in enumerate(values):
        study.ask(SPACE)
        study.complete(number, value, Outcome())
    ranked = [row.value for row in study.rank()]
    assert ranked == sorted(values, reverse=maximize)


def test_a_name_is_used_once(url):
    Study.create(url, "a")
    with pytest.raises(FileExistsError, match=r"sweeps resume a"):
        Study.create(url, "a")


def test_an_unknown_sweep_lists_the_known(url):
    Study.create(url, "demo-1")
    with pytest.raises(KeyError, match=r"No sweep 'x'.*Known sweeps: demo-1"):
        Study.load(url, "x")


def test_an_unknown_trial_gives_the_range(url):
    study = Study.create(url, "a")
    study.ask(SPACE)
    with pytest.raises(KeyError, match=r"a has trials 0 to 0; there is no trial 4"):
        study.row(4)


def test_the_list_of_sweeps_counts_states_and_names_the_best(url):
    study = Study.create(url, "a", budget=7)
    for number in range(3):
        study.ask(SPACE)
        if number:
            study.complete(number, number / 10, Outcome())
    (row,) = list_studies(url)
    assert (row.name, row.best, row.metric, row.budget) == ("a", 0.2, "val/accuracy", 7)
    assert row.num_trials[TrialState.complete] == 2
    assert row.num_trials[TrialState.running] == 1


# No configuration twice


class Choices:
    """A space of few configurations."""

    def __init__(self, *rates: float) -> None:
        self.rates = list(rates)

    def suggest(self, trial):
        return {"optimizer.lr": trial.suggest_categorical("optimizer.lr", self.rates)}

    def overrides(self, params):
        return []

    def apply(self, params):
        return trial_config(lr=params["optimizer.lr"])


def finish(study: Study, value: float = 0.5) -> list[float]:
    """Ask until nothing new comes; each trial completes."""
    drawn: list[float] = []
    while True:
        try:
            asked = study.ask(Choices(0.1, 0.2, 0.3))
        except Exhausted:
            return drawn
        drawn.append(asked.params["optimizer.lr"])
        study.complete(asked.number, value, Outcome())


@pytest.mark.parametrize("name", ["tpe", "random", "grid"])
def test_no_configuration_is_handed_out_twice(name):
    study = Study.create(MEMORY, "a", SamplerSettings(name=name))
    assert sorted(finish(study)) == [0.1, 0.2, 0.3]
    assert study.num_asked() == len(study.rows()) == 3


def test_a_loaded_study_knows_its_configurations(url):
    first = Study.create(url, "a", RANDOM)
    had = first.ask(Choices(0.1, 0.2, 0.3)).params["optimizer.lr"]
    first.complete(0, 0.5, Outcome())
    assert sorted([had, *finish(Study.load(url, "a", RANDOM))]) == [0.1, 0.2, 0.3]


def test_the_sampler_is_told_the_earlier_result_of_a_repeated_configuration():
    study = Study.create(MEMORY, "a", RANDOM)
    finish(study, value=0.7)
    repeated = [trial for trial in study._study.trials if "duplicate" in trial.user_attrs]
    assert repeated
    assert {trial.value for trial in repeated} == {0.7}


def test_repeating_a_running_trial_is_not_told_as_a_result():
    study = Study.create(MEMORY, "a", RANDOM)
    study.ask(Choices(0.1))
    with pytest.raises(Exhausted, match=r"16 suggestions in a row repeated configurations"):
        study.ask(Choices(0.1))
    assert [row.number for row in study.rows()] == [0]
    assert study.num_asked() == 1
    assert {trial.state.name for trial in study._study.trials[1:]} == {"FAIL"}


def test_an_orphan_that_repeats_a_configuration_is_not_adopted(url):
    study = Study.create(url, "a", RANDOM)
    study.ask(Choices(0.1))
    study._study.ask().suggest_categorical("optimizer.lr", [0.1])  # the driver died before it noticed
    again = Study.load(url, "a", RANDOM)
    assert [orphan.number for orphan in again.orphans(Choices(0.1))] == [0]
    assert again.num_asked() == 1


# Budget and trials given by hand


def test_the_budget_is_read_anew(url):
    study = Study.create(url, "a", budget=3)
    Study.load(url, "a").set_budget(Budget(num_trials=9))
    assert study.budget.num_trials == 9


def test_a_budget_below_what_was_handed_out_is_refused():
    study = Study.create(MEMORY, "a", RANDOM)
    for _ in range(3):
        study.ask(SPACE)
    study.set_budget(Budget(num_trials=3))
    with pytest.raises(ConfigError, match=r"a has handed out 3 trials, so 2 are too few.*--trials \+20"):
        study.set_budget(Budget(num_trials=2))


def test_a_trial_given_by_hand_waits_uncounted_and_comes_next():
    study = Study.create(MEMORY, "a", RANDOM)
    study.ask(SPACE)
    study.enqueue({"optimizer.lr": 0.25})
    study.enqueue({"optimizer.lr": 0.25})
    assert [row.state for row in study.rows()] == [TrialState.running, TrialState.waiting]
    assert study.num_asked() == 1
    assert study.ask(SPACE).params == {"optimizer.lr": 0.25}
    assert study.num_asked() == 2


# Several objectives and constraints

TWO = Goals(objectives={"val/accuracy": "maximize", "model/parameters": "minimize"})


def tell(study: Study, *points: tuple[float, float]) -> None:
    for accuracy, size in points:
        asked = study.ask(SPACE)
        metrics = {"val/accuracy": accuracy, "model/parameters": size}
        study.complete(asked.number, accuracy, Outcome(metrics=metrics))


def test_the_front_comes_first_and_the_first_objective_orders_it():
    study = Study.create(MEMORY, "a", RANDOM, goals=TWO)
    tell(study, (0.5, 10), (0.8, 50), (0.4, 20), (0.7, 60), (0.9, 90))
    assert [row.number for row in study.front()] == [4, 1, 0]
    assert [row.number for row in study.rank()] == [4, 1, 0, 3, 2]
    assert study.best().number == 4
    assert study.row(1).values == (0.8, 50)


def test_trials_that_break_a_constraint_come_last_and_are_never_best():
    goals = Goals(constraints=(Constraint.read("model/parameters", "<= 40"),))
    study = Study.create(MEMORY, "a", RANDOM, goals=goals)
    tell(study, (0.9, 80), (0.5, 30), (0.95, 44), (0.6, 40))
    assert [row.number for row in study.rank()] == [3, 1, 2, 0]
    assert study.best().number == 3
    assert study.row(0).violations == {"model/parameters <= 40": 1.0}


@settings(max_examples=5)
@given(st.permutations([120, 150, 300, 90, 101]))
def test_trials_that_break_constraints_are_ordered_by_how_much_not_by_their_values(sizes):
    limit = Constraint("model/parameters", "<=", 100)
    study = Study.create(MEMORY, "a", RANDOM, goals=Goals(constraints=(limit,)), budget=5)
    for size in sizes:
        number = study.ask(SPACE).number
        # The larger, the more accurate: accuracy would order them the other way round.
        study.complete(number, size / 1000, Outcome(metrics={"model/parameters": size}))
    assert [sizes[row.number] for row in study.rank()] == sorted(sizes)


def test_where_every_trial_breaks_a_constraint_none_is_best():
    goals = Goals(constraints=(Constraint.read("model/parameters", "<= 40"),))
    study = Study.create(MEMORY, "a", RANDOM, goals=goals)
    tell(study, (0.9, 80))
    assert study.best() is None
    assert study.summary().best is None


def test_goals_survive_in_the_database(url):
    goals = Goals(objectives=TWO.objectives, constraints=(Constraint.read("train/loss", ">= 1e-3"),))
    Study.create(url, "a", RANDOM, goals=goals)
    assert Study.load(url, "a", RANDOM).goals == goals


def test_a_trial_of_several_objectives_is_stopped_with_what_it_reached():
    study = Study.create(MEMORY, "a", RANDOM, goals=TWO)
    study.ask(SPACE)
    study.stop(0, 0.4, 3, Outcome(metrics={"val/accuracy": 0.4}), "behind other trials")
    assert (study.row(0).state, study.row(0).value) == (TrialState.stopped, 0.4)


def test_a_missing_objective_fails_the_trial_and_names_what_is_reported():
    study = Study.create(MEMORY, "a", RANDOM, goals=TWO)
    study.ask(SPACE)
    study.complete(0, 0.4, Outcome(metrics={"val/accuracy": 0.4}))
    assert study.row(0).reason == "model/parameters is not reported; reported: val/accuracy"
