"""Ask and tell: the budget, the slots, and what each kind of ending becomes in the study."""

from __future__ import annotations

import pytest
from ray import cloudpickle
from ray.tune.search import Searcher
from stand_in import RANDOM, LearningRates

from sweeps.budget import Budget
from sweeps.search import Study, TrialState
from sweeps.searcher import Goal, StudySearcher

METRICS = {"metrics/val/accuracy": 0.5, "epoch": 2.0, "step": 20, "num_grown": 1, "num_pruned": 0}


@pytest.fixture
def study():
    return Study.create("sqlite://", "s", RANDOM)


def make(
    study, budget=3, capacity=9, space=None, reason="its workers died: killed", said=None, fidelity="epoch"
):
    ended = []
    study.set_budget(Budget(num_trials=budget))
    searcher = StudySearcher(
        study,
        space or LearningRates(),
        Goal(fidelity=fidelity),
        job=lambda assignment: {"number": assignment.number},
        capacity=lambda: capacity,
        on_end=ended.append,
        failure=lambda number: reason,
        say=(said if said is not None else []).append,
    )
    return searcher, ended


def test_it_hands_out_the_budget_and_not_one_more(study):
    searcher, _ = make(study, budget=3)
    assert [searcher.suggest(str(i)) for i in range(3)] == [{"job": {"number": i}} for i in range(3)]
    assert searcher.suggest("x") is None  # others may still add to the sweep
    for i in range(3):
        searcher.on_trial_complete(str(i), METRICS | {"finished": True})
    assert searcher.suggest("x") == Searcher.FINISHED
    assert study.num_asked() == 3


def test_it_waits_while_every_slot_is_taken(study):
    searcher, _ = make(study, capacity=1)
    searcher.suggest("a")
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("a", METRICS | {"finished": True})
    assert searcher.suggest("b") == {"job": {"number": 1}}


def test_a_new_searcher_adopts_what_the_last_one_left_running(study):
    first, _ = make(study, budget=3)
    first.suggest("a")
    first.suggest("b")
    first.on_trial_complete("a", METRICS | {"finished": True})
    second, _ = make(study, budget=3)
    assert second.adopted == [1]
    handed = [second.suggest(str(i)) for i in range(3)]
    assert handed == [{"job": {"number": 1}}, {"job": {"number": 2}}, None]


@pytest.mark.parametrize(
    ("result", "error", "state", "reason"),
    [
        (METRICS | {"finished": True}, False, TrialState.complete, None),
        (METRICS | {"finished": False}, False, TrialState.stopped, "behind other trials at epoch 2"),
        ({"failed": "loss is nan", "done": True}, False, TrialState.failed, "loss is nan"),
        (None, True, TrialState.failed, "its workers died: killed"),
    ],
)
def test_each_ending_becomes_the_state_that_says_so(study, result, error, state, reason):
    searcher, ended = make(study)
    searcher.suggest("a")
    searcher.on_trial_result("a", METRICS)
    searcher.on_trial_complete("a", result, error=error)
    (row,) = ended
    assert (row.state, row.reason) == (state, reason)
    assert row.outcome.metrics == {"val/accuracy": 0.5}
    assert (row.outcome.step, row.outcome.num_grown) == (20, 1)


def test_the_reason_a_dead_worker_left_behind_is_told(study):
    searcher, ended = make(study, reason="RuntimeError: out of memory")
    searcher.suggest("a")
    searcher.on_trial_complete("a", error=True)
    assert ended[0].reason == "RuntimeError: out of memory"


def test_contradicting_parameters_fail_count_and_do_not_stop_the_sweep(study):
    searcher, ended = make(study, budget=20, space=LearningRates(forbidden=0.05), capacity=99)
    handed = 0
    while searcher.suggest(str(handed)) is not None:
        handed += 1
    states = [row.state for row in study.rows()]
    assert len(states) == 20
    assert 0 < handed < 20
    assert states.count(TrialState.failed) == len(ended) == 20 - handed


def test_nothing_of_the_study_is_pickled_into_tunes_state(study):
    searcher, _ = make(study)
    assert b"sqlite" not in cloudpickle.dumps(searcher)


def test_a_running_sweep_that_is_extended_goes_on(study):
    searcher, _ = make(study, budget=1)
    searcher.suggest("a")
    assert searcher.suggest("b") is None
    study.set_budget(Budget(num_trials=2))
    assert searcher.suggest("b") == {"job": {"number": 1}}


def test_a_trial_enqueued_while_the_sweep_runs_is_handed_out(study):
    searcher, _ = make(study, budget=1)
    searcher.suggest("a")
    study.set_budget(Budget(num_trials=2))
    study.enqueue({"optimizer.lr": 0.25})
    assert searcher.suggest("b") == {"job": {"number": 1}}
    assert study.row(1).params == {"optimizer.lr": 0.25}


def test_a_sweep_ends_where_its_space_holds_no_more(study):
    said = []
    searcher, _ = make(study, budget=9, space=LearningRates(0.1, 0.1), said=said)
    assert searcher.suggest("a") == {"job": {"number": 0}}
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("a", METRICS | {"finished": True})
    assert searcher.suggest("b") == Searcher.FINISHED
    assert study.budget.num_trials == 1
    assert said == [
        "no trials beyond 1: 16 suggestions in a row repeated configurations: the space seems exhausted"
    ]


@pytest.mark.parametrize(
    ("fidelity", "step", "reason"),
    [
        ("epoch", 2, "behind other trials at epoch 2"),
        ("metrics/cost/train_flops", 123_456_789, "behind other trials at cost/train_flops 1.23457e+08"),
        ("metrics/cost/wall_seconds", 2346, "behind other trials at cost/wall_seconds 2.3456"),
    ],
)
def test_a_stopped_trial_is_told_with_its_value_at_the_fidelity_it_reached(study, fidelity, step, reason):
    searcher, _ = make(study, fidelity=fidelity)
    searcher.suggest("a")
    costs = {"metrics/cost/train_flops": 123_456_789.0, "metrics/cost/wall_seconds": 2.3456}
    searcher.on_trial_complete("a", METRICS | costs | {"finished": False})
    row = study.row(0)
    assert (row.state, row.value, row.reason) == (TrialState.stopped, 0.5, reason)
    assert study._frozen(0).intermediate_values == {step: 0.5}
