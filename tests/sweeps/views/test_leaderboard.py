"""The table that ends a sweep."""

from __future__ import annotations

import functools
import json

import pytest
import yaml
from click.testing import CliRunner
from replicate_folders import FLOPS, Replicated
from stand_in import RANDOM, LearningRates

from sweeps.cli.app import main
from sweeps.cli.closing import closing
from sweeps.config import compose
from sweeps.kept import events
from sweeps.kept.trials import Outcome
from sweeps.run.result import Result
from sweeps.search import Constraint, Goals, Study, study_url
from sweeps.views import leaderboard, words


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
    assert words.duration(seconds) == said


def test_choices_are_named_by_their_value_and_numbers_by_their_key():
    chosen = words.chosen({"growth": "tiny", "pruning.k1": 0.31415, "growth.num_neurons": 4})
    assert chosen == "tiny, k1 0.314, num_neurons 4"


def test_a_running_trial_shows_its_newest_report(study):
    newest = Outcome(metrics={"val/accuracy": 0.6}, epoch=2, num_grown=2)
    (running,) = [e for e in leaderboard.entries(study, lambda number: newest) if e.state == "running"]
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


# Several seeds a configuration

CURVES = ([0.5, 0.7], [0.5, 0.9], [0.5, 0.8])  # of the mean 0.8: deviations -0.1, 0.1, 0; error 0.1 / sqrt(3)


@functools.cache
def config(*words: str):
    return compose.load(["space=demo", "model=mlp", *words])


@pytest.fixture
def replicated(tmp_path):
    """A sweep in which trial 0 is complete and trial 1 runs, each with three seeds."""
    (tmp_path / "s").mkdir()
    plan = {"format": events.FORMAT, "name": "s", "command": "sweeps launch", "created": "today"}
    plan |= {"commit": None, "config": config("sweep.replicates=3").to_dict()}
    (tmp_path / "s" / "plan.yaml").write_text(yaml.safe_dump(plan))
    study = Study.create(study_url(tmp_path), "s", RANDOM, budget=2)
    for number in range(2):
        study.ask(LearningRates())
        trial = Replicated(tmp_path / "s" / str(number), CURVES)
        if number == 0:
            outcome = trial.write()
            study.complete(0, outcome.metrics["val/accuracy"], outcome)
        else:
            trial.given()
            trial.report(last=1)
    return tmp_path


def show(root, *words: str) -> str:
    done = CliRunner().invoke(main, ["show", "s", "--root", str(root), *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_mean_is_shown_with_its_standard_error_and_edits_as_those_of_one_training(replicated):
    counts, head, complete, running, *_ = show(replicated).splitlines()
    assert counts == "s  2 trials with 3 seeds each (mean ± standard error): 1 complete, 1 running"
    assert "train GFLOP, all seeds" in head
    # 2 + 2 + 2 growths and 0 + 1 + 2 prunings; (1 + 2 + 3) x 2 epochs of FLOPs.
    assert complete.split()[:9] == ["0", "0.8000", "±", "0.0577", "0.5500", "±", "0.0577", "1,100", "500"]
    assert complete.split()[9:12] == ["0.012", "2+", "1-"]
    assert running.split()[:4] == ["1", "0.5000", "±", "0.0000"]
    assert running.split()[9:12] == ["0.006", "1+", "0-"]


def test_the_last_lines_of_a_sweep_say_with_how_many_seeds(replicated):
    result = Result(
        study=Study.load(study_url(replicated), "s", RANDOM),
        folder=replicated / "s",
        best=None,
        interrupted=False,
        ended_by=None,
        failure=None,
        seconds=60.0,
        num_slots=2,
        busy=0.5,
        complaint=None,
    )
    told = "\n".join(closing(result))
    assert (
        "s  2 trials with 3 seeds each (mean ± standard error): 1 complete, 1 running    60 s, 2 slots"
        in told
    )
    assert "0.8000 ± 0.0577" in told


def test_json_has_means_errors_and_the_values_of_each_seed(replicated):
    complete, running = json.loads(show(replicated, "--json"))["trials"]
    assert complete["value"] == pytest.approx(0.8)
    assert complete["error"] == pytest.approx(0.1 / 3**0.5)
    assert complete["errors"] == [complete["error"]]
    assert complete["test_error"] == pytest.approx(complete["error"])
    assert complete["train_flops"] == 12 * FLOPS
    assert (complete["num_grown"], complete["num_pruned"]) == (6, 3)
    assert [each["val/accuracy"] for each in complete["replicates"]] == [0.7, 0.9, 0.8]
    assert [each["test/accuracy"] for each in complete["replicates"]] == pytest.approx([0.45, 0.65, 0.55])
    assert [each["val/accuracy"] for each in running["replicates"]] == [0.5] * 3


def test_a_trial_trained_once_shows_no_error(study):
    e = next(e for e in leaderboard.entries(study) if e.number == 0)
    assert (e.error, e.errors, e.test_error, e.replicates) == (None, (), None, ())
    assert not any("±" in line or "seeds" in line for line in leaderboard.table(study))


def test_further_objectives_have_errors_too():
    goals = Goals(objectives={"val/accuracy": "maximize", "val/loss": "minimize"})
    study = Study.create("sqlite://", "s", RANDOM, goals=goals)
    trainings = [{"val/accuracy": a, "val/loss": b} for a, b in [(0.8, 0.25), (0.9, 0.75)]]
    outcome = Outcome(metrics={"val/accuracy": 0.85, "val/loss": 0.5}, replicates=trainings)
    study.complete(study.ask(LearningRates()).number, 0.85, outcome)
    (e,) = leaderboard.entries(study)
    assert e.errors == (e.error, pytest.approx(0.25))
    assert "0.8500 ± 0.0500  0.5 ± 0.25" in leaderboard.table(study)[1]
    assert e.replicates == tuple(trainings)


@pytest.mark.parametrize(
    ("grown", "pruned", "num", "told"),
    [(6, 4, 0, "6+ 4-"), (6, 4, 1, "6+ 4-"), (18, 11, 3, "6+ 4-"), (1, 2, 3, "0+ 1-")],
)
def test_edits_of_several_trainings_are_told_as_their_rounded_mean(grown, pruned, num, told):
    assert words.edits_each(grown, pruned, num) == told
