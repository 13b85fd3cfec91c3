"""The best configuration as a file that runs again."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from stand_in import RANDOM, LearningRates, trial_config

from sweeps.cli.app import main
from sweeps.config import compose
from sweeps.config.errors import ConfigError
from sweeps.kept.trials import Outcome
from sweeps.records import best
from sweeps.search import Goals, Study, study_url
from sweeps.trial import alone
from sweeps.views import retrained


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
    lines = retrained.table(compared)
    assert lines[1].split() == ["val/accuracy", "0.8", "0.75", "+0.05"]
    assert lines[2].split() == ["test/accuracy", "0.7", "-", "-"]


# Several seeds a configuration

TRAININGS = [{"val/accuracy": v, "test/accuracy": v - 0.25, "model/width/a": 4.0} for v in (0.7, 0.9, 0.8)]


@pytest.fixture
def replicated(tmp_path):
    study = Study.create(study_url(tmp_path), "r", RANDOM)
    study.ask(LearningRates())
    metrics = {"val/accuracy": 0.8, "test/accuracy": 0.55, "model/width/a": 4.0}
    study.complete(0, 0.8, Outcome(metrics=metrics, replicates=TRAININGS))
    return study


def test_a_best_file_trains_the_first_seed_and_records_that_training_beside_the_means(replicated, tmp_path):
    row = best.pick(replicated)
    path = best.export(replicated, row, tmp_path / "best.yaml")
    read = compose.read_best(str(path))
    assert read.trial["seed"] == row.config["seed"] == 0
    recorded = read.recorded
    assert recorded["metrics"] == {"val/accuracy": 0.7, "test/accuracy": pytest.approx(0.45)}
    assert recorded["replicates"] == 3
    assert recorded["value"] == recorded["means"]["val/accuracy"] == 0.8
    assert recorded["means"]["test/accuracy"] == 0.55
    assert recorded["standard_errors"] == {
        "val/accuracy": pytest.approx(0.1 / 3**0.5),
        "test/accuracy": pytest.approx(0.1 / 3**0.5),
    }
    assert "# The file trains seed 0; the trial's values are means over seeds 0 to 2." in path.read_text()


def test_exporting_says_which_seed_the_file_trains(replicated, tmp_path):
    done = CliRunner().invoke(main, ["best", "r", "--root", str(tmp_path)])
    assert done.exit_code == 0
    first, _, last = done.output.splitlines()
    assert first.startswith("trial 0 of r: val acc 0.8000 ± 0.0577, lr ")
    assert last == "The file trains seed 0; the trial's values are means over seeds 0 to 2."


def test_a_metric_that_ranked_is_in_the_file_with_its_mean_whatever_else_people_compare():
    goals = Goals(objectives={"val/f1": "maximize"})
    study = Study.create("sqlite://", "s", RANDOM, goals=goals)
    trainings = [{"val/f1": 0.5}, {"val/f1": 0.75}]
    study.complete(
        study.ask(LearningRates()).number, 0.625, Outcome(metrics={"val/f1": 0.625}, replicates=trainings)
    )
    recorded = best.document(study, best.pick(study))["recorded"]
    assert (recorded["metrics"], recorded["means"]) == (
        {"val/f1": 0.5},
        {"val/f1": 0.625},
    )
    assert retrained.means_line(recorded).endswith(
        "of 2 seeds; their means ± standard errors: val/f1 0.6250 ± 0.1250"
    )


def test_what_retraining_is_compared_with_is_one_seed_and_the_mean_over_all_is_said(replicated):
    recorded = best.document(replicated, best.pick(replicated))["recorded"]
    compared = best.compare(TRAININGS[0], recorded)
    assert all(c.now == c.recorded for c in compared)
    assert retrained.means_line(recorded) == (
        "the recorded values are those of the first of 3 seeds; their means ± standard errors: "
        "val/accuracy 0.8000 ± 0.0577, test/accuracy 0.5500 ± 0.0577"
    )


def test_a_trial_trained_once_has_no_means_beside_its_metrics(study):
    row = best.pick(study)
    recorded = best.document(study, row)["recorded"]
    assert not {"replicates", "means", "standard_errors"} & recorded.keys()
    assert (best.seeds(row), retrained.means_line(recorded), retrained.means_line(None)) == (None, None, None)


@pytest.mark.slow
def test_retraining_an_exported_trial_gives_what_was_recorded(tmp_path):
    config = trial_config(num_epochs=1)
    config.data.num_train = 200
    (*_, first) = alone.train(config)
    recorded = {"metrics": first.metrics}
    (*_, last) = alone.train(config, checkpoints=tmp_path)
    again = best.compare(last.metrics, recorded)
    assert all(c.now == c.recorded for c in again)
    assert next(tmp_path.iterdir()).name.startswith("step-")
