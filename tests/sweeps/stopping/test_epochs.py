"""Trials of different lengths: with `training.num_epochs` searched, every scheduler compares equal work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from local_sweeps import launch, make_config, read_runs
from ray.tune.schedulers import TrialScheduler
from stand_in import StandIn, StandInTrial

from growcore.config import TrialConfig
from sweeps.config.settings import Fidelity, SchedulerName, SweepConfig
from sweeps.kept.trials import TrialState
from sweeps.space.search_space import SearchSpace
from sweeps.stopping import schedulers
from sweeps.stopping.fidelity import Scale, full_trial

STOPPING = (SchedulerName.asha, SchedulerName.hyperband, SchedulerName.median)
LONGEST, GRACE = 20, 0.3
FIRST_JUDGED = 6  # epoch: GRACE of the longest
RATES = {"choice": [0.1, 0.001]}
EPOCHS = {"training.num_epochs": {"int": [2, LONGEST]}}


def config(name: str, fidelity: Fidelity = Fidelity.train_flops, space: dict | None = None) -> SweepConfig:
    values = make_config(Path("runs")).to_dict() | {"overrides": []}  # its trials have 4 epochs
    told = {"name": name, "fidelity": fidelity.value, "grace": GRACE, "edit_grace": 0.0, "num_brackets": 1}
    return SweepConfig.from_dict({**values, "space": space or EPOCHS, "scheduler": told})


class Driven:
    """A scheduler without Ray, fed by stand-in trainings."""

    def __init__(self, config: SweepConfig) -> None:
        self.scheduler = schedulers.scheduler(config, on_death=lambda trial: None)
        self.full_flops = StandIn().full_train_flops(TrialConfig.from_dict(full_trial(config)), "cpu")

    def run(self, name: str, num_epochs: int, value: float) -> int:
        """Train; returns the last epoch."""
        trial: Any = type("Trial", (), {"config": {"job": {"number": name}}})()
        self.scheduler.on_trial_add(None, trial)
        for epoch in range(1, num_epochs + 1):
            result: dict[str, Any] = {
                "epoch": float(epoch),
                "metrics/val/accuracy": value,
                "metrics/cost/train_flops": 1e6 * epoch,
                "metrics/cost/wall_seconds": 2.0 * epoch,
                "full_train_flops": self.full_flops,
                "ending": "finished" if epoch == num_epochs else None,
            }
            if epoch == num_epochs:
                break
            if self.scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                break
        self.scheduler.on_trial_complete(None, trial, result)
        return epoch


@pytest.mark.parametrize("fidelity", list(Fidelity))
@pytest.mark.parametrize("name", STOPPING)
def test_a_weak_trial_is_stopped_after_the_same_work_however_long_it_would_be(name, fidelity):
    driven = Driven(config(name, fidelity))
    for index in range(8):
        assert driven.run(f"good{index}", LONGEST, 0.75) == LONGEST
    for num_epochs in (2, 5, 7, 12, LONGEST):
        assert driven.run(f"weak{num_epochs}", num_epochs, 0.1) == min(num_epochs, FIRST_JUDGED)


@pytest.mark.parametrize("name", STOPPING)
def test_short_trials_set_the_bar_no_further_than_they_came(name):
    driven = Driven(config(name))
    for index in range(4):
        driven.run(f"short{index}", FIRST_JUDGED - 1, 0.9)  # ends before anything is judged
    assert driven.run("weaker", LONGEST, 0.5) == LONGEST


@pytest.mark.parametrize("fidelity", list(Fidelity))
def test_a_fraction_is_of_the_longest_trial_and_a_turn_ends_there(fidelity):
    told = config("asha", fidelity)
    scale = Scale(told, fixed_from=0.0)
    full_flops = StandIn().full_train_flops(TrialConfig.from_dict(full_trial(told)), "cpu")
    for epoch in (1, 2, 7, LONGEST):
        metrics = {"cost/train_flops": 1e6 * epoch, "cost/wall_seconds": 2.0 * epoch}
        flat = {f"metrics/{key}": value for key, value in metrics.items()}
        result = {"epoch": float(epoch), "full_train_flops": full_flops, **flat}
        assert scale.fraction("a", result) == pytest.approx(epoch / LONGEST)
        report = {"epoch": float(epoch), "metrics": metrics}
        assert scale.turn(epoch / LONGEST).is_over(report, full_flops)
        assert not scale.turn((epoch + 1) / LONGEST).is_over(report, full_flops)


@pytest.mark.parametrize(
    ("space", "longest"),
    [
        ({"training.num_epochs": {"int": [2, 3]}}, 3),
        ({"training.num_epochs": {"choice": [5, 30, 10]}}, 30),
        ({"training.num_epochs": {"int": [1, "2 * training.num_epochs"]}}, 8),
        ({"training.num_epochs": {"int": [1, "training.batch_size"]}, "training.batch_size": [32, 64]}, 64),
        ({"training.num_epochs": {"int": [1, 2], "when": "optimizer.lr > 0.01"}, "optimizer.lr": RATES}, 4),
        ({"optimizer.lr": RATES}, 4),
    ],
)
def test_a_full_trial_has_as_many_epochs_as_any_trial_of_the_space(space, longest):
    told = config("asha", space=space)
    assert full_trial(told)["training"]["num_epochs"] == longest
    trials = [v.get("training.num_epochs", 4) for v in SearchSpace.of(told).sample(50)]
    assert max(trials) <= longest


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SchedulerName))
def test_a_whole_sweep_over_the_number_of_epochs_and_one_width(ray_here, tmp_path, name):
    words = (f"scheduler.name={name}", "sweep.num_trials=6", "scheduler.edit_grace=0.0")
    values = make_config(tmp_path, *words).to_dict()
    values["overrides"] = []
    values["space"] |= {"training.num_epochs": {"int": [2, 8]}, "model.widths.0": {"int": [2, 6]}}
    result = launch(SweepConfig.from_dict(values), StandInTrial)
    rows = result.study.rows()
    assert {row.state for row in rows} <= {TrialState.complete, TrialState.stopped}
    assert len(rows) == 6
    runs = read_runs(tmp_path, result.folder.name)
    for row in rows:
        if not row.changes:
            run = runs[f"{result.folder.name}/{row.number}"]
            assert run.data.params["model.widths.0"] == str(row.config["model"]["widths"][0])
        asked = row.config["training"]["num_epochs"]
        assert row.outcome.epoch == asked if row.state is TrialState.complete else row.outcome.epoch < asked
