"""Ask and tell: the budget, the slots, and what each kind of ending becomes in the study."""

from __future__ import annotations

import pytest
from ray import cloudpickle
from ray.tune.search import Searcher
from stand_in import RANDOM, Heard, LearningRates

from sweeps.kept import events
from sweeps.kept.budget import Budget
from sweeps.kept.events import EventWriter
from sweeps.kept.trials import TrialState
from sweeps.run.attempts import Attempts, Death
from sweeps.run.searcher import Goal, StudySearcher
from sweeps.search import Study

METRICS = {"metrics/val/accuracy": 0.5, "epoch": 2.0, "step": 20, "num_grown": 1, "num_pruned": 0}
FINISHED = METRICS | {"ending": "finished"}


@pytest.fixture
def study():
    return Study.create("sqlite://", "s", RANDOM)


@pytest.fixture
def make(tmp_path):
    """A searcher of a study, and what it says."""

    def made(study, budget=3, capacity=9, space=None, fidelity="epoch", max_retries=0):
        heard = Heard()
        study.set_budget(Budget(num_trials=budget))
        searcher = StudySearcher(
            study,
            space or LearningRates(),
            Goal(fidelity=fidelity),
            job=lambda assignment: {"number": assignment.number},
            capacity=lambda: capacity,
            attempts=Attempts(tmp_path, max_retries, heard.say),
            listener=heard,
        )
        return searcher, heard

    return made


def test_it_hands_out_the_budget_and_not_one_more(study, make):
    searcher, _ = make(study, budget=3)
    assert [searcher.suggest(str(i)) for i in range(3)] == [{"job": {"number": i}} for i in range(3)]
    assert searcher.suggest("x") is None  # others may still add to the sweep
    for i in range(3):
        searcher.on_trial_complete(str(i), FINISHED)
    assert searcher.suggest("x") == Searcher.FINISHED
    assert study.num_asked() == 3


def test_it_waits_while_every_slot_is_taken(study, make):
    searcher, _ = make(study, capacity=1)
    searcher.suggest("a")
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("a", FINISHED)
    assert searcher.suggest("b") == {"job": {"number": 1}}


def test_a_new_searcher_adopts_what_the_last_one_left_running(study, make):
    first, _ = make(study, budget=3)
    first.suggest("a")
    first.suggest("b")
    first.on_trial_complete("a", FINISHED)
    second, _ = make(study, budget=3)
    assert second.adopted == [1]
    handed = [second.suggest(str(i)) for i in range(3)]
    assert handed == [{"job": {"number": 1}}, {"job": {"number": 2}}, None]


@pytest.mark.parametrize(
    ("result", "error", "state", "reason"),
    [
        (FINISHED, False, TrialState.complete, None),
        (METRICS | {"ending": None}, False, TrialState.stopped, "behind other trials at epoch 2"),
        (
            {"ending": "expired", "reason": "trained for 9 s"},
            False,
            TrialState.stopped,
            "its time is over (cluster.trial_seconds): trained for 9 s",
        ),
        ({"ending": "failed", "reason": "loss is nan"}, False, TrialState.failed, "loss is nan"),
        (None, True, TrialState.failed, "its worker died: at once"),
    ],
)
def test_each_ending_becomes_the_state_that_says_so(study, make, result, error, state, reason):
    searcher, heard = make(study)
    searcher.suggest("a")
    searcher.on_trial_result("a", METRICS)
    searcher.on_trial_complete("a", result, error=error)
    (row,) = heard.rows
    assert (row.state, row.reason) == (state, reason)
    assert row.outcome.metrics == {"val/accuracy": 0.5}
    assert (row.outcome.step, row.outcome.num_grown) == (20, 1)


def crash(searcher, tmp_path, trial_id, number, reason="RuntimeError: no"):
    """As a worker does: it writes why, then says so."""
    EventWriter(tmp_path / str(number)).write("failed", {"reason": reason, "traceback": ""})
    searcher.on_trial_complete(trial_id, {"ending": "crashed", "reason": reason})


def test_a_configuration_that_fails_three_times_is_told_so_and_the_search_goes_on(study, make, tmp_path):
    searcher, heard = make(study, max_retries=2, capacity=1, budget=2)
    for _ in range(3):
        assert searcher.suggest("a") == {"job": {"number": 0}}
        crash(searcher, tmp_path, "a", 0)
    (row,) = heard.rows
    assert (row.state, row.reason) == (TrialState.failed, "RuntimeError: no (3 times)")
    assert heard.paused_ones == [0, 0]
    assert "RuntimeError: no (failure 2, 2 are allowed)" in heard.lines[-1]
    assert searcher.suggest("b") == {"job": {"number": 1}}


def test_failures_of_earlier_drivers_count(study, make, tmp_path):
    first, _ = make(study, max_retries=2)
    for _ in range(2):
        first.suggest("a")
        crash(first, tmp_path, "a", 0)
    again, heard = make(study, max_retries=2)
    assert again.suggest("a") == {"job": {"number": 0}}
    crash(again, tmp_path, "a", 0)
    assert [row.state for row in heard.rows] == [TrialState.failed]


def test_what_another_attempt_would_come_to_as_well_is_not_tried_again(study, make):
    searcher, heard = make(study, max_retries=2)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"ending": "failed", "reason": "loss is nan"})
    assert heard.rows[0].state is TrialState.failed


def test_a_lost_worker_is_noted_with_its_reason_and_its_trial_goes_on(study, make, tmp_path):
    searcher, heard = make(study, max_retries=1)
    searcher.suggest("a")
    searcher._attempts.died(0, Death(reason="SIGKILL", was_preempted=False))
    searcher.on_trial_complete("a", error=True)
    (lost,) = events.read_events(tmp_path / "0")
    assert (lost["kind"], lost["reason"]) == ("lost", "its worker died: SIGKILL")
    assert searcher.suggest("a") == {"job": {"number": 0}}
    (tmp_path / "0" / events.HUNG).write_text("File trial.py, line 3 in step")
    searcher.on_trial_complete("a", error=True)
    (row,) = heard.rows
    assert row.reason == "its worker hung and was ended (cluster.hang_seconds) (2 times)"
    *_, lost = events.read_events(tmp_path / "0")
    assert lost["traceback"] == "File trial.py, line 3 in step"


def test_preemption_spends_no_retry_but_a_worker_that_dies_after_it_does(study, make, tmp_path):
    searcher, heard = make(study, max_retries=0)
    searcher.suggest("a")
    for _ in range(3):
        EventWriter(tmp_path / "0").write("preempted", {"reason": "its worker was told to end"})
        searcher.on_trial_complete("a", error=True)
        assert searcher.suggest("a") == {"job": {"number": 0}}
    searcher._attempts.died(0, Death(reason="the node is drained", was_preempted=True))
    searcher.on_trial_complete("a", error=True)
    assert heard.rows == []
    assert searcher.suggest("a") == {"job": {"number": 0}}
    searcher.on_trial_complete("a", error=True)  # at once, before it wrote anything
    assert [row.state for row in heard.rows] == [TrialState.failed]


def test_preemption_under_an_earlier_driver_excuses_no_death_under_this_one(study, make, tmp_path):
    first, _ = make(study)
    first.suggest("a")
    EventWriter(tmp_path / "0").write("preempted", {"reason": "its worker was told to end"})
    again, heard = make(study, max_retries=0)
    again.suggest("a")
    again.on_trial_complete("a", error=True)
    assert [row.state for row in heard.rows] == [TrialState.failed]


def test_a_worker_that_ends_itself_after_a_crash_counts_as_one_failure(study, make, tmp_path):
    searcher, heard = make(study, max_retries=1)
    for _ in range(2):
        assert searcher.suggest("a") == {"job": {"number": 0}}
        EventWriter(tmp_path / "0").write("failed", {"reason": "CUDA error", "traceback": ""})
        searcher.on_trial_complete("a", error=True)
    assert heard.rows[0].reason == "CUDA error (2 times)"
    assert [e["kind"] for e in events.read_events(tmp_path / "0")] == ["failed", "failed"]


def test_what_cannot_be_recorded_stops_the_sweep_and_leaves_its_trial_to_be_resumed(study, make):
    searcher, heard = make(study, max_retries=2)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"ending": "unrecorded", "reason": "no space left"})
    assert heard.gave_up.startswith("no space left. ")
    assert study.row(0).state is TrialState.running
    again, _ = make(study)
    assert again.adopted == [0]


def test_notes_of_a_worker_are_passed_on(study, make):
    searcher, heard = make(study)
    searcher.suggest("a")
    searcher.on_trial_result("a", METRICS | {"notes": ["a checkpoint is damaged"]})
    assert heard.lines == ["#0   a checkpoint is damaged"]


def test_an_outcome_holds_what_each_replicate_came_to(study, make):
    searcher, heard = make(study)
    searcher.suggest("a")
    each = [{"val/accuracy": 0.4}, {"val/accuracy": 0.6}]
    searcher.on_trial_complete("a", FINISHED | {"replicates": each})
    (row,) = heard.rows
    assert row.value == 0.5
    assert row.outcome.errors == {"val/accuracy": pytest.approx(0.1)}
    assert study.row(0).outcome.replicates == each


def test_contradicting_parameters_fail_count_and_do_not_stop_the_sweep(study, make):
    searcher, heard = make(study, budget=20, space=LearningRates(forbidden=0.05), capacity=99)
    handed = 0
    while searcher.suggest(str(handed)) is not None:
        handed += 1
    states = [row.state for row in study.rows()]
    assert len(states) == 20
    assert 0 < handed < 20
    assert states.count(TrialState.failed) == len(heard.rows) == 20 - handed


def test_nothing_of_the_study_is_pickled_into_tunes_state(study, make):
    searcher, _ = make(study)
    assert b"sqlite" not in cloudpickle.dumps(searcher)


def test_a_running_sweep_that_is_extended_goes_on(study, make):
    searcher, _ = make(study, budget=1)
    searcher.suggest("a")
    assert searcher.suggest("b") is None
    study.set_budget(Budget(num_trials=2))
    assert searcher.suggest("b") == {"job": {"number": 1}}


def test_a_trial_enqueued_while_the_sweep_runs_is_handed_out(study, make):
    searcher, _ = make(study, budget=1)
    searcher.suggest("a")
    study.set_budget(Budget(num_trials=2))
    study.enqueue({"optimizer.lr": 0.25})
    assert searcher.suggest("b") == {"job": {"number": 1}}
    assert study.row(1).params == {"optimizer.lr": 0.25}


def test_a_sweep_ends_where_its_space_holds_no_more(study, make):
    searcher, heard = make(study, budget=9, space=LearningRates(0.1, 0.1))
    assert searcher.suggest("a") == {"job": {"number": 0}}
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("a", FINISHED)
    assert searcher.suggest("b") == Searcher.FINISHED
    assert study.budget.num_trials == 1
    assert heard.lines == [
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
def test_a_stopped_trial_is_told_with_its_value_at_the_fidelity_it_reached(
    study, make, fidelity, step, reason
):
    searcher, _ = make(study, fidelity=fidelity)
    searcher.suggest("a")
    costs = {"metrics/cost/train_flops": 123_456_789.0, "metrics/cost/wall_seconds": 2.3456}
    searcher.on_trial_complete("a", METRICS | costs)
    row = study.row(0)
    assert (row.state, row.value, row.reason) == (TrialState.stopped, 0.5, reason)
    assert study._frozen(0).intermediate_values == {step: 0.5}
