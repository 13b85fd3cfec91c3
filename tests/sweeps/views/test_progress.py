"""What a running sweep shows on a pipe and on a terminal."""

from __future__ import annotations

import io

import pytest
from stand_in import RANDOM, LearningRates

from sweeps.kept.budget import Budget
from sweeps.kept.trials import Outcome
from sweeps.search import Study, study_url
from sweeps.views.progress import Lines, LiveTable, Tally, describe, display


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def rows(tmp_path):
    study = Study.create(study_url(tmp_path), "s", RANDOM)
    for _ in range(3):
        study.ask(LearningRates())
    study.complete(0, 0.8, Outcome(metrics={"model/parameters": 1234.0}, num_grown=2))
    study.stop(1, 0.5, 2, Outcome(epoch=2.0), "behind")
    study.fail(2, "the loss became nan", Outcome())
    return study.rows()


def test_a_pipe_gets_one_line_per_event(rows):
    stream = io.StringIO()
    shown = display(Budget(num_trials=3), 0, "val/accuracy", True, stream)
    assert isinstance(shown, Lines)
    for row in rows:
        shown.started(row.number, row.params, False)
        shown.reported(row.number, {})
        shown.ended(row)
    shown.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6
    assert "#0   starts: lr " in lines[0]
    assert "#0   complete: val acc 0.8000, 1,234 params, 2+ 0-" in lines[1]
    assert lines[1].endswith("[1/3 trials, best 0.8000 (#0)]")
    assert "#1   stopped early at epoch 2: val acc 0.5000" in lines[3]
    assert "#2   failed: the loss became nan" in lines[5]
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_a_table_and_keeps_a_line_per_ended_trial(rows, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    shown = display(Budget(num_trials=3), 0, "val/accuracy", True, stream)
    assert isinstance(shown, LiveTable)
    shown.started(0, {"optimizer.lr": 0.1}, False)
    report = {"epoch": 1.0, "metrics": {"val/accuracy": 0.25}, "num_grown": 1, "num_pruned": 0}
    shown.reported(0, report)
    shown._live.refresh()
    shown.ended(rows[0])
    shown.close()
    written = stream.getvalue()
    assert "0.2500" in written
    assert "#0   complete: val acc 0.8000" in written


def test_the_best_so_far_follows_the_direction(rows):
    tally = Tally(Budget(num_trials=5), 2, "val/loss", maximize=False)
    tally.add(rows[0])
    assert str(tally) == "3/5 trials, best 0.8000 (#0)"


def test_a_failure_is_described_by_its_reason(rows):
    assert describe(rows[2], "val/accuracy") == "failed: the loss became nan"


# Several seeds a configuration

TRAININGS = [{"val/accuracy": value, "cost/wall_seconds": 2.0} for value in (0.7, 0.9, 0.8)]
TOLD = "0.8000 ± 0.0577"


def test_a_trial_with_several_seeds_ends_with_its_mean_its_error_and_all_its_seconds(tmp_path):
    study = Study.create(study_url(tmp_path), "s", RANDOM)
    study.ask(LearningRates())
    metrics = {"val/accuracy": 0.8, "cost/wall_seconds": 2.0}
    study.complete(0, 0.8, Outcome(metrics=metrics, num_grown=7, num_pruned=5, replicates=TRAININGS))
    (row,) = study.rows()
    assert describe(row, "val/accuracy") == f"complete: val acc {TOLD}, 2+ 2-, 6.0 s"


def test_a_running_trial_with_several_seeds_shows_its_mean_and_its_error(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    shown = display(Budget(num_trials=3), 0, "val/accuracy", True, stream)
    shown.started(0, {"optimizer.lr": 0.1}, False)
    report = {"epoch": 1.0, "metrics": {"val/accuracy": 0.8}, "num_grown": 6, "num_pruned": 3}
    shown.reported(0, {**report, "replicates": TRAININGS})
    shown._live.refresh()
    shown.close()
    assert TOLD in stream.getvalue()
    assert "2+ 1-" in stream.getvalue()
