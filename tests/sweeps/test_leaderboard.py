"""The table that ends a sweep."""

from __future__ import annotations

import pytest
from stand_in import RANDOM, LearningRates

from sweeps import leaderboard
from sweeps.search import Constraint, Goals, Outcome, Study, study_url


@pytest.fixture
def study(tmp_path):
    study = Study.create(study_url(tmp_path), "demo-1", RANDOM)
    for _ in range(5):
        study.ask(LearningRates())
    metrics = {
        "val/accuracy": 0.9,
        "test/accuracy": 0.8901,
        "model/parameters": 48210.0,
        "model/nonzero_parameters": 21007.0,
        "cost/train_flops": 3.1e9,
    }
    study.complete(0, 0.8, Outcome(metrics=metrics, num_grown=6, num_pruned=4))
    study.complete(1, 0.9, Outcome(metrics=metrics))
    study.stop(2, 0.5, 2, Outcome(epoch=2.0), "behind")
    study.fail(3, "the loss became nan", Outcome())
    return study


def test_complete_trials_come_first_and_the_best_of_them_at_the_top(study):
    assert [e.number for e in leaderboard.entries(study)] == [1, 0, 2, 4, 3]


def test_every_trial_shows_accuracy_size_and_edits(study):
    lines = leaderboard.table(study)
    heads = "# | val acc | test acc | params | non-zero | train GFLOP | edits | what was chosen"
    assert lines[0].split() == heads.replace("|", "").split()
    assert lines[2].startswith("  0   0.8000    0.8901  48,210    21,007          3.1  6+ 4-  lr ")
    assert "stopped at epoch 2" in lines[3]
    assert "failed: the loss became nan" in lines[5]


def test_a_limited_table_says_how_many_it_leaves_out(study):
    lines = leaderboard.table(study, limit=2, width=40)
    assert lines[-1] == "  ... and 3 more: sweeps show demo-1"[:40]
    assert all(len(line) <= 40 for line in lines)


def test_counts_name_every_state_that_occurs(study):
    assert leaderboard.counts(study) == "5 trials: 2 complete, 1 stopped early, 1 failed, 1 running"


@pytest.mark.parametrize(
    ("seconds", "said"), [(7.4, "7 s"), (119, "119 s"), (18 * 60, "18 min"), (7500, "2 h 05 min")]
)
def test_durations_are_said_as_people_say_them(seconds, said):
    assert leaderboard.duration(seconds) == said


def test_choices_are_named_by_their_value_and_numbers_by_their_key():
    chosen = leaderboard.chosen({"growth": "tiny", "pruning.k1": 0.31415, "growth.num_neurons": 4})
    assert chosen == "tiny, k1 0.314, num_neurons 4"


def test_a_running_trial_shows_its_newest_report(study):
    edit, reported = {"kind": "grow"}, []
    for epoch, accuracy in ((1, 0.3), (2, 0.6)):
        report = {"step": epoch, "epoch": epoch, "metrics": {"val/accuracy": accuracy}, "edits": [edit]}
        reported.append(report)
    (running,) = [e for e in leaderboard.entries(study, lambda number: reported) if e.state == "running"]
    assert (running.number, running.value, running.epoch, running.edits) == (4, 0.6, 2, "2+ 0-")


def test_several_objectives_show_their_values_and_the_pareto_front():
    goals = Goals(
        objectives={"val/accuracy": "maximize", "val/loss": "minimize", "model/parameters": "minimize"},
        constraints=(Constraint.read("model/parameters", "<= 60"),),
    )
    study = Study.create("sqlite://", "s", RANDOM, goals=goals)
    for accuracy, loss, size in [(0.8, 0.5, 50), (0.7, 0.6, 55), (0.6, 0.7, 20), (0.9, 0.1, 90)]:
        asked = study.ask(LearningRates())
        metrics = {"val/accuracy": accuracy, "val/loss": loss, "model/parameters": float(size)}
        study.complete(asked.number, accuracy, Outcome(metrics=metrics))
    head, *lines = leaderboard.table(study)
    assert head.split()[:8] == ["#", "val", "acc", "val", "loss", "front", "test", "acc"]
    assert [line.split()[:4] for line in lines[:2]] == [
        ["0", "0.8000", "0.5", "*"],
        ["2", "0.6000", "0.7", "*"],
    ]
    assert [line.split()[:4] for line in lines[2:]] == [
        ["1", "0.7000", "0.6", "-"],
        ["3", "0.9000", "0.1", "-"],
    ]
    assert "breaks model/parameters <= 60: lr" in lines[3]
