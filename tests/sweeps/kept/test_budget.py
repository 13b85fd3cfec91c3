"""What ends a sweep: trials, hours, GPU hours, FLOPs, failures; and what is counted."""

from __future__ import annotations

import pytest
from stand_in import RANDOM, LearningRates

from sweeps.config.errors import ConfigError
from sweeps.kept import budget
from sweeps.kept.budget import Budget, Spent
from sweeps.kept.trials import Outcome
from sweeps.run.spending import Spending
from sweeps.search import Study


class Shown:
    def accounted(self, budget: Budget, spent: Spent) -> None:
        self.budget, self.spent = budget, spent


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def pass_hours(self, hours: float) -> None:
        self.seconds += 3600 * hours


def make_study(**values: float) -> Study:
    return Study.create("sqlite://", "s", RANDOM, budget=Budget(**values))


@pytest.mark.parametrize(
    ("spent", "ended"),
    [
        (Spent(num_trials=11, hours=1.9, gpu_hours=7, train_flops=9e13), None),
        (Spent(num_trials=12), "12 of 12 trials"),
        (Spent(hours=2.5), "2.5 of 2 h"),
        (Spent(gpu_hours=8), "8 of 8 GPU h"),
        (Spent(train_flops=1.5e14), "1.5e+14 of 1e+14 train FLOPs"),
    ],
)
def test_the_first_budget_that_is_spent_ends_a_sweep(spent, ended):
    whole = Budget(num_trials=12, hours=2.0, gpu_hours=8.0, train_flops=1e14)
    assert budget.ended_by(whole, spent) == ended


def test_what_has_no_limit_never_ends_a_sweep():
    assert budget.ended_by(Budget(hours=2.0), Spent(num_trials=10**6, train_flops=1e30)) is None


@pytest.mark.parametrize(
    ("name", "words", "after"),
    [
        ("num_trials", "+20", 36),
        ("num_trials", "84", 84),
        ("hours", "+0.5", 2.5),
        ("train_flops", "1e15", 1e15),
    ],
)
def test_amending_adds_or_sets_one_budget_and_no_other(name, words, after):
    before = Budget(num_trials=16, hours=2.0)
    found = budget.amended(before, Spent(num_trials=16), name, words)
    assert found.to_dict() == {**before.to_dict(), name: after}


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("num_trials", "1.5", r"--trials must be \+NUMBER, or NUMBER in all; got 1.5"),
        ("hours", "-3", r"--hours must be"),
        ("gpu_hours", "+8", r"--gpu-hours \+8: the sweep has no such limit to add to"),
        ("hours", "0.5", r"has spent 0.8 h, so 0.5 are too few"),
    ],
)
def test_amending_refuses_what_makes_no_sense(name, words, message):
    with pytest.raises(ConfigError, match=message):
        budget.amended(Budget(num_trials=16, hours=2.0), Spent(hours=0.8), name, words)


@pytest.mark.parametrize(
    ("num_failed", "num_ended", "stops"), [(7, 7, False), (4, 8, False), (5, 8, True), (50, 100, False)]
)
def test_a_larger_share_of_failures_than_allowed_stops_a_sweep_from_eight_trials_on(
    num_failed, num_ended, stops
):
    reasons = ["out of memory"] * (num_failed - 1) + ["loss became nan"]
    found = budget.too_many(reasons, num_ended, share=0.5)
    assert (found is not None) == stops
    if found:
        assert found.startswith(f"{num_failed} of {num_ended} trials failed")
        assert found.endswith(f"{num_failed - 1} of them: out of memory")


def test_time_counts_while_a_driver_runs_and_gpu_time_while_trials_do():
    study, clock, shown = make_study(hours=10.0), Clock(), Shown()
    ledger = Spending(study, 0.5, 1, shown, clock)
    clock.pass_hours(1)
    for _ in range(2):
        ledger.started(study.ask(LearningRates()).number)
    clock.pass_hours(2)
    study.complete(0, 0.5, Outcome(metrics={"cost/train_flops": 4e6}))
    ledger.ended(study.row(0))
    clock.pass_hours(3)
    ledger.write()
    assert study.spent == Spent(num_trials=2, hours=6.0, gpu_hours=(2 * 2 + 1 * 3) * 0.5, train_flops=4e6)
    assert shown.spent.hours == 6.0
    clock.pass_hours(100)  # the driver is killed here, and nothing runs for long
    again = Spending(study, 0.5, 1, shown, clock)
    clock.pass_hours(1)
    again.write()
    assert study.spent.hours == 7.0
    assert study.spent.gpu_hours == 3.5


def test_a_trial_that_gave_its_slot_back_spends_no_gpu_time_until_it_has_one_again():
    study, clock = make_study(gpu_hours=100.0), Clock()
    ledger = Spending(study, 2.0, 1, Shown(), clock)
    number = study.ask(LearningRates()).number
    for holds in (True, False, True):
        (ledger.started if holds else ledger.paused)(number)
        clock.pass_hours(1)
    ledger.reported(number, {"metrics": {"cost/train_flops": 5e6}})
    ledger.paused(number)
    assert study.spent.gpu_hours == 2 * 2.0
    assert study.spent.train_flops == 5e6


def test_flops_are_those_of_ended_trials_and_of_the_newest_reports_times_their_replicates():
    study, shown = make_study(train_flops=1e9), Shown()
    ledger = Spending(study, 0, 3, shown, Clock())
    for _ in range(2):
        ledger.started(study.ask(LearningRates()).number)
    ledger.reported(0, {"metrics": {"cost/train_flops": 2e6}})
    ledger.reported(1, {"metrics": {"cost/train_flops": 5e6}})
    ledger.write()
    assert study.spent.train_flops == 3 * 7e6
    study.stop(0, 0.5, 2, Outcome(metrics={"cost/train_flops": 3e6}), "behind")
    ledger.ended(study.row(0))
    assert study.spent.train_flops == 3 * 8e6
    resumed = Spending(study, 0, 3, shown, Clock())  # trial 1 has not reported to this driver yet
    resumed.write()
    assert study.spent.train_flops == 3 * 8e6
    resumed.reported(1, {"metrics": {"cost/train_flops": 6e6}})
    resumed.write()
    assert study.spent.train_flops == 3 * 9e6


def test_a_spent_budget_starts_no_trial_and_the_sweep_is_over_when_the_last_one_has_ended():
    study = make_study(train_flops=1e7)
    study.ask(LearningRates())
    assert study.ended_by is None
    study.note_spent(Spent(train_flops=1e7))
    assert study.ended_by == "1e+07 of 1e+07 train FLOPs"
    assert not study.is_over
    study.complete(0, 0.5, Outcome())
    assert study.is_over
    study.set_budget(Budget(train_flops=2e7))
    assert not study.is_over
