"""The best configuration as a file that runs again."""

from __future__ import annotations

import pytest
from stand_in import RANDOM, LearningRates, trial_config

from sweeps import best, compose
from sweeps.config import ConfigError
from sweeps.search import Outcome, Study, study_url


@pytest.fixture
def study(tmp_path):
    study = Study.create(study_url(tmp_path), "s", RANDOM)
    for number in range(3):
        study.ask(LearningRates())
        if number < 2:
            metrics = {"val/accuracy": 0.8 + number / 100, "test/accuracy": 0.7, "model/width/a": 4.0}
            study.complete(number, metrics["val/accuracy"], Outcome(metrics=metrics))
    return study


def test_an_exported_trial_reads_back_as_the_same_configuration(study, tmp_path):
    row = best.pick(study)
    path = best.export(study, row, tmp_path / "conf" / "best" / "name.yaml")
    read = compose.read_best(str(path))
    assert read.trial == row.config
    assert read.recorded["trial"] == row.number == 1
    assert read.recorded["metrics"] == {"val/accuracy": 0.81, "test/accuracy": 0.7}


def test_a_trial_is_picked_by_its_number_too(study):
    assert best.pick(study, 0).number == 0


@pytest.mark.parametrize(
    ("number", "message"),
    [(2, "Trial 2 of s is running, not complete"), (7, "s has trials 0 to 2; there is no trial 7")],
)
def test_only_a_complete_trial_is_picked(study, number, message):
    with pytest.raises(ConfigError, match=message):
        best.pick(study, number)


def test_a_sweep_without_a_complete_trial_has_no_best(tmp_path):
    empty = Study.create(study_url(tmp_path), "e")
    with pytest.raises(ConfigError, match=r"No trial of e is complete.*sweeps show e"):
        best.pick(empty)


def test_a_comparison_shows_new_recorded_and_difference():
    recorded = {"metrics": {"val/accuracy": 0.75}}
    compared = best.compare({"val/accuracy": 0.8, "test/accuracy": 0.7, "epoch": 3.0}, recorded)
    assert [(c.metric, c.now, c.recorded) for c in compared] == [
        ("val/accuracy", 0.8, 0.75),
        ("test/accuracy", 0.7, None),
    ]
    lines = best.comparison_lines(compared)
    assert lines[1].split() == ["val/accuracy", "0.8", "0.75", "+0.05"]
    assert lines[2].split() == ["test/accuracy", "0.7", "-", "-"]


@pytest.mark.slow
def test_retraining_an_exported_trial_gives_what_was_recorded(tmp_path):
    config = trial_config(num_epochs=1)
    config.data.num_train = 200
    first = best.retrain(config, None)
    recorded = {"metrics": {c.metric: c.now for c in first}}
    again = best.retrain(config, recorded, checkpoints=tmp_path)
    assert all(c.now == c.recorded for c in again)
    assert next(tmp_path.iterdir()).name.startswith("step-")
