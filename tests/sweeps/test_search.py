"""The study: what it hands out, how trials end, and that nothing is told twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in import RANDOM, LearningRates

from sweeps.search import Goals, Outcome, SamplerSettings, Study, TrialState, list_studies, study_url

SPACE = LearningRates()


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
def test_rank_orders_complete_trials_by_the_direction(tmp_path_factory, values, maximize):
    url = study_url(tmp_path_factory.mktemp("rank"))
    direction = "maximize" if maximize else "minimize"
    study = Study.create(url, "a", RANDOM, goals=Goals(objectives={"val/accuracy": direction}))
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
