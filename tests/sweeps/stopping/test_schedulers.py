"""What stops weak trials: every scheduler over every fidelity, with results that cost nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler
from stand_in import trial_config

from sweeps.config.settings import (
    Direction,
    Fidelity,
    SchedulerConfig,
    SchedulerName,
    SearchConfig,
    SweepConfig,
    SweepSettings,
)
from sweeps.kept import events, replicates
from sweeps.stopping import schedulers
from sweeps.stopping.earlier import earlier, note_scale
from sweeps.stopping.fidelity import EditGrace, Scale
from sweeps.views import plan

STOPPING = (SchedulerName.asha, SchedulerName.hyperband, SchedulerName.median)
NUM_EPOCHS = 10
FULL_FLOPS = 1e9


def make_config(name: SchedulerName, fidelity: Fidelity = Fidelity.epoch, **options: Any) -> SweepConfig:
    options = {"grace": 0.3, "edit_grace": 0.0, **options}
    return SweepConfig(
        trial=trial_config(num_epochs=NUM_EPOCHS),
        space={},
        space_name="none",
        choices={},
        sweep=SweepSettings(),
        search=SearchConfig(direction=options.pop("direction", Direction.maximize)),
        scheduler=SchedulerConfig(
            name=name, fidelity=fidelity, **{"grace": 0.3, "edit_grace": 0.0, **options}
        ),
    )


def make_result(epoch: float, value: float, num_grown: int = 0) -> dict[str, Any]:
    """Ten epochs are a full trial, of 1e9 FLOPs and 20 seconds."""
    return {
        "metrics/val/accuracy": value,
        "metrics/cost/train_flops": epoch * FULL_FLOPS / NUM_EPOCHS,
        "metrics/cost/wall_seconds": 2.0 * epoch,
        "full_train_flops": FULL_FLOPS,
        "epoch": epoch,
        "num_grown": num_grown,
        "num_pruned": 0,
        "ending": "finished" if epoch == NUM_EPOCHS else None,
    }


class FakeTrial:
    """One of Tune's: an attempt at the trial of this name."""

    def __init__(self, name: str) -> None:
        self.config = {"job": {"number": name}}


class Driven:
    """A scheduler without Ray: trials report, it decides."""

    def __init__(self, config: SweepConfig) -> None:
        self.scheduler = schedulers.scheduler(config, on_death=lambda trial: None)
        self.trials: dict[str, Any] = {}

    def report(self, name: str, epoch: float, value: float, num_grown: int = 0) -> str:
        if name not in self.trials:
            self.trials[name] = FakeTrial(name)
            self.scheduler.on_trial_add(None, self.trials[name])
        result = make_result(epoch, value, num_grown)
        # Tune asks for no decision on a finished trial.
        decision = TrialScheduler.STOP
        if result["ending"] is None:
            decision = self.scheduler.on_trial_result(None, self.trials[name], result)
        if decision == TrialScheduler.STOP:
            self.scheduler.on_trial_complete(None, self.trials[name], result)
        return decision

    def run(self, name: str, value: float, **options: Any) -> float:
        """Report this value after every epoch; returns the last epoch."""
        epoch = 1
        while self.report(name, epoch, value, **options) == TrialScheduler.CONTINUE:
            epoch += 1
        return epoch


@pytest.mark.parametrize("fidelity", list(Fidelity))
@pytest.mark.parametrize("name", STOPPING)
def test_a_weak_trial_is_stopped_at_the_grace_and_not_before(name, fidelity):
    driven = Driven(make_config(name, fidelity, num_brackets=1))
    for index in range(4):
        assert driven.run(f"good{index}", 0.75) == NUM_EPOCHS
    assert driven.run("weak", 0.1) == 3


@pytest.mark.parametrize("name", STOPPING)
def test_a_smaller_value_is_better_where_the_metric_is_minimized(name):
    driven = Driven(make_config(name, direction=Direction.minimize, num_brackets=1))
    for index in range(4):
        driven.run(f"good{index}", 0.125)
    assert driven.run("weak", 0.9) == 3


def test_hyperband_gives_some_trials_a_later_first_rung():
    driven = Driven(make_config(SchedulerName.hyperband, grace=0.1, num_brackets=2))
    for index in range(40):
        driven.run(f"good{index}", 0.75)
    assert {driven.run(f"weak{index}", 0.1) for index in range(40)} == {1, 3}


def test_a_rung_is_not_missed_by_rounding():
    driven = Driven(make_config(SchedulerName.asha, grace=0.1))
    driven.run("good", 0.9)
    driven.run("late", 0.9)
    for epoch in range(1, 9):
        driven.report("falls", epoch, 0.95)
    assert driven.report("falls", 9, 0.1) == TrialScheduler.STOP  # 3 * 3 * 0.1 > 0.9


@pytest.mark.parametrize("name", [SchedulerName.asha, SchedulerName.median])
def test_the_last_result_of_a_stopped_trial_counts_once(name):
    driven = Driven(make_config(name, grace=0.1))
    for index in range(4):
        driven.run(f"good{index}", 0.75)
    driven.trials["weak"] = FakeTrial("weak")
    driven.scheduler.on_trial_add(None, driven.trials["weak"])
    result = make_result(9, 0.1)  # past two rungs at once
    assert driven.scheduler.on_trial_result(None, driven.trials["weak"], result) == TrialScheduler.STOP
    counted = told_to(driven)
    driven.scheduler.on_trial_complete(None, driven.trials["weak"], result)
    assert told_to(driven) == counted


def told_to(driven: Driven) -> Any:
    """What Ray's scheduler has counted."""
    inner = driven.scheduler._inner
    if hasattr(inner, "_brackets"):
        return [[dict(recorded) for _, recorded in b._rungs] for b in inner._brackets]
    return {trial: len(results) for trial, results in inner._results.items()}


def test_no_scheduler_and_pbt_stop_nothing():
    for name in (SchedulerName.none, SchedulerName.pbt):
        driven = Driven(make_config(name))
        assert [driven.run(f"{value}", value) for value in (0.9, 0.8, 0.1)] == [NUM_EPOCHS] * 3


def test_a_trial_that_is_tried_again_is_not_compared_again_at_a_rung_it_passed():
    driven = Driven(make_config(SchedulerName.asha))
    for index in range(4):
        driven.run(f"good{index}", 0.75)
    for epoch in range(1, 5):
        assert driven.report("lost", epoch, 0.8) == TrialScheduler.CONTINUE
    del driven.trials["lost"]  # its worker died: another of Tune's trials goes on with it
    assert driven.report("lost", 4, 0.2) == TrialScheduler.CONTINUE
    assert driven.report("new", 4, 0.2) == TrialScheduler.STOP


def test_a_trial_that_is_tried_again_opens_no_window_for_edits_it_made_before():
    driven = Driven(make_config(SchedulerName.asha, edit_grace=0.2))
    for index in range(4):
        driven.run(f"good{index}", 0.75)
    driven.report("lost", 1, 0.2, num_grown=1)
    for _ in range(2):
        del driven.trials["lost"]
        assert driven.report("lost", 2, 0.2, num_grown=1) == TrialScheduler.CONTINUE
    assert driven.report("lost", 3, 0.2, num_grown=1) == TrialScheduler.STOP


def write_trial(folder: Path, last_epoch: int, value: float, num_replicates: int = 1) -> None:
    """What a worker leaves behind; one edit before the second report."""
    trainings = replicates.folders(folder, num_replicates)
    for each in {folder, *trainings}:
        writer = events.EventWriter(each)
        for epoch in range(1, last_epoch + 1):
            result = make_result(epoch, value)
            metrics = {k.removeprefix("metrics/"): v for k, v in result.items() if k.startswith("metrics/")}
            edits = [{"kind": "grow"}] if epoch == 2 and each in trainings else []
            report = {"step": 10 * epoch, "epoch": epoch, "metrics": metrics, "edits": edits}
            writer.write("report", {**report, "finished": epoch == NUM_EPOCHS})


@pytest.mark.parametrize("num_replicates", [1, 2])
def test_what_trials_reported_is_read_back_as_tune_brought_it(tmp_path, num_replicates):
    write_trial(tmp_path / "3", NUM_EPOCHS, 0.5, num_replicates)
    assert earlier(tmp_path) == []  # no worker told what a full trial takes
    note_scale(tmp_path, make_result(1, 0.5))
    grown = [0] + [num_replicates] * (NUM_EPOCHS - 1)
    assert earlier(tmp_path) == [
        (3, make_result(epoch, 0.5, num_grown)) for epoch, num_grown in enumerate(grown, start=1)
    ]


@pytest.mark.parametrize("name", STOPPING)
def test_a_new_driver_stops_what_the_old_one_would_have_stopped(tmp_path, name):
    config = make_config(name, num_brackets=1)
    for number in range(4):
        write_trial(tmp_path / str(number), NUM_EPOCHS, 0.75)
    note_scale(tmp_path, make_result(1, 0.75))
    afresh, resumed = Driven(config), Driven(config)
    resumed.scheduler.recall(tmp_path)
    assert afresh.run("weak", 0.2) == NUM_EPOCHS
    assert resumed.run("weak", 0.2) < NUM_EPOCHS
    assert resumed.run("strong", 0.9) == NUM_EPOCHS


@pytest.mark.parametrize("name", STOPPING)
def test_a_failed_trial_does_not_count(name):
    driven = Driven(make_config(name, num_brackets=1))
    for index in range(3):
        driven.report(f"fails{index}", 3, 0.99)
        trial = driven.trials[f"fails{index}"]
        driven.scheduler.on_trial_complete(None, trial, {"ending": "failed", "reason": "nan", "done": True})
    assert driven.report("next", 1, 0.1) == TrialScheduler.CONTINUE


@given(
    name=st.sampled_from(STOPPING),
    fidelity=st.sampled_from(list(Fidelity)),
    edit_grace=st.sampled_from([0.0, 0.05, 0.2]),
    curves=st.lists(st.lists(st.floats(0, 1), min_size=NUM_EPOCHS, max_size=NUM_EPOCHS), max_size=6),
    edits=st.lists(st.booleans(), min_size=NUM_EPOCHS, max_size=NUM_EPOCHS),
)
def test_no_trial_is_stopped_before_the_grace_or_when_finished(name, fidelity, edit_grace, curves, edits):
    driven = Driven(make_config(name, fidelity, edit_grace=edit_grace))
    live = dict(enumerate(curves))
    for epoch in range(1, NUM_EPOCHS + 1):
        for trial, curve in list(live.items()):
            decision = driven.report(str(trial), epoch, curve[epoch - 1], sum(edits[:epoch]))
            if decision == TrialScheduler.STOP:
                assert epoch >= 3
                del live[trial]
    # One at least is at the end: the best of every rung goes on.
    assert not live


# Edits


@pytest.mark.parametrize("name", STOPPING)
def test_a_trial_is_not_stopped_for_the_dip_of_its_own_growth(name):
    for edit_grace, last in ((0.0, 3), (0.1, NUM_EPOCHS)):
        driven = Driven(make_config(name, edit_grace=edit_grace, num_brackets=1))
        for index in range(4):
            driven.run(f"good{index}", 0.75)
        epoch = 1
        while True:
            slow = epoch <= 3  # it is small, then grows before its third epoch
            decision = driven.report("grows", epoch, 0.1 if slow else 0.9, num_grown=int(epoch >= 3))
            if decision == TrialScheduler.STOP:
                break
            epoch += 1
        assert epoch == last


def test_the_value_in_a_window_is_not_what_others_are_measured_by():
    driven = Driven(make_config(SchedulerName.asha, edit_grace=0.1, reduction_factor=2))
    assert driven.report("grows", 3, 0.0, num_grown=1) == TrialScheduler.CONTINUE
    assert driven.report("next", 3, 0.5) == TrialScheduler.CONTINUE
    assert driven.report("weak", 3, 0.4) == TrialScheduler.STOP  # 0 and 0.5 would let it pass


def test_a_window_lasts_its_length_and_the_next_one_comes_a_length_later():
    grace = EditGrace(0.2)
    assert not grace.holds("a", 0.1, 0)
    assert [grace.holds("a", f, 1) for f in (0.2, 0.3, 0.4)] == [True, True, False]
    assert not grace.holds("a", 0.5, 2)  # edited too soon after
    assert grace.holds("a", 0.6, 3)


@given(st.floats(0.0, 0.9), st.lists(st.floats(0.001, 0.3), min_size=2, max_size=60))
def test_a_trial_that_edits_all_the_time_is_judged_within_a_window_and_two_reports(window, steps):
    grace = EditGrace(window)
    fraction, last_judged, held = 0.0, 0.0, 0
    for count, step in enumerate(steps, 1):
        fraction += step
        if grace.holds("a", fraction, count):
            held += 1
            assert fraction - last_judged <= window + 2 * max(steps) + 1e-6
        else:
            last_judged = fraction
    assert held < len(steps) or len(steps) * max(steps) <= window + 1e-6 or window >= sum(steps[1:]) - 1e-6


def test_a_window_of_nothing_holds_nothing():
    grace = EditGrace(0.0)
    assert not any(grace.holds("a", index / 10, index) for index in range(1, 11))


# Scale


def test_seconds_of_a_full_trial_are_estimated_until_the_first_trial_reaches_the_grace():
    scale = Scale(make_config(SchedulerName.asha, Fidelity.seconds), fixed_from=0.3)

    def report(flops: float, seconds: float) -> dict[str, Any]:
        return {
            "full_train_flops": 1000.0,
            "metrics/cost/train_flops": flops,
            "metrics/cost/wall_seconds": seconds,
        }

    assert scale.fraction("a", report(100, 10)) == pytest.approx(0.1)  # 100 s in full
    assert scale.fraction("b", report(100, 30)) == pytest.approx(30 / 200)  # 40 s for 200 FLOPs
    assert scale.full_seconds is None
    assert scale.fraction("b", report(200, 60)) == pytest.approx(60 / (1000 * 70 / 300))
    assert scale.full_seconds is None
    assert scale.fraction("b", report(300, 90)) == pytest.approx(90 / 250)
    assert scale.full_seconds == pytest.approx(250)
    assert scale.fraction("a", report(1000, 25)) == pytest.approx(0.1)  # fixed


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (SchedulerName.none, "none: every trial runs to its end"),
        (SchedulerName.asha, "asha by epoch: from 30% of a trial on, the best 1 in 3 go on"),
        (SchedulerName.hyperband, "hyperband by epoch in 3 brackets: from 30% of a trial on"),
        (SchedulerName.median, "median by epoch: from 30% of a trial on, the better half goes on; not in"),
        (SchedulerName.pbt, "pbt by epoch: every 10% of a trial the worst 25% go on from the best"),
    ],
)
def test_the_plan_says_in_a_line_what_stops_trials(name, line):
    config = make_config(name, edit_grace=0.05)
    assert line in "".join(plan._stopping(config.scheduler))
