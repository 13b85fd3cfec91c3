"""Nothing is lost: workers that die, hang or have to go, with real processes on a local Ray."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faulty import CRASHES, CRASHES_ONCE, HANGS, HANGS_ONCE, FaultyTrial
from local_sweeps import launch, make_config, read_runs

from sweeps.kept import events
from sweeps.kept.trials import TrialState
from sweeps.run.result import Result

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.usefixtures("ray_here")]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def _own_workdir(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a fault is remembered that happens once


def run(root: Path, name: str, *words: str, first: tuple[float, ...] = (), num_trials: int = 3) -> Result:
    """A sweep whose first trials have these learning rates."""
    config = make_config(root, f"sweep.name={name}", f"sweep.num_trials={num_trials}", *words, high=0.4)
    config.space = {"optimizer.lr": {"float": [1e-2, 0.6], "log": True}}
    config.search.first = [{"optimizer.lr": lr} for lr in first]
    return launch(config, FaultyTrial)


def kinds(trial: Path) -> list[str]:
    return [event["kind"] for event in events.read_events(trial)]


def when_reported(trial: Path, num: int, do: Any) -> None:
    """In a thread: once a trial has so many reports, do something to the process of its worker."""

    def wait() -> None:
        while not trial.exists() or len(events.reports(trial)) < num:
            time.sleep(0.02)
        do([event["pid"] for event in events.read_events(trial) if event["kind"] == "started"][-1])

    threading.Thread(target=wait, daemon=True).start()


def steps_of_attempts(trial: Path) -> list[list[int]]:
    """The steps that each attempt reported."""
    found: list[list[int]] = []
    for event in events.read_events(trial):
        if event["kind"] == "started":
            found.append([])
        elif event["kind"] == "report":
            found[-1].append(event["step"])
    return found


def test_a_trial_whose_worker_is_killed_continues_from_its_checkpoint(root, capsys):
    when_reported(root / "killed" / "1", 2, lambda pid: os.kill(pid, signal.SIGKILL))
    result = run(root, "killed")
    assert [row.state for row in result.study.rows()] == [TrialState.complete] * 3
    trial = root / "killed" / "1"
    assert kinds(trial).count("lost") == 1
    first, second = steps_of_attempts(trial)
    assert first[:2] == [10, 20]
    assert second == [step for step in (10, 20, 30, 40) if step > first[-1]]
    assert "#1   goes on from its checkpoint: its worker died" in capsys.readouterr().out
    assert Counter(run.info.status for run in read_runs(root, "killed").values()) == {"FINISHED": 4}


def test_a_worker_that_is_told_to_end_keeps_what_it_reached_and_no_retry_is_spent(root):
    when_reported(root / "told" / "0", 2, lambda pid: os.kill(pid, signal.SIGTERM))
    result = run(root, "told", "cluster.max_retries=0")
    assert [row.state for row in result.study.rows()] == [TrialState.complete] * 3
    trial = root / "told" / "0"
    assert kinds(trial).count("preempted") == 1
    assert "lost" not in kinds(trial)
    assert [step for steps in steps_of_attempts(trial) for step in steps] == [10, 20, 30, 40]


def test_a_worker_that_hangs_is_ended_and_its_trial_goes_on(root):
    result = run(root, "hangs", "cluster.hang_seconds=4", first=(HANGS_ONCE,))
    assert [row.state for row in result.study.rows()] == [TrialState.complete] * 3
    (lost,) = (e for e in events.read_events(root / "hangs" / "0") if e["kind"] == "lost")
    assert lost["reason"] == "its worker hung and was ended (cluster.hang_seconds)"
    assert "in fail" in lost["traceback"]
    assert steps_of_attempts(root / "hangs" / "0") == [[10, 20], [30, 40]]
    assert not list((root / "hangs").glob(f"*/{events.HUNG}"))


def test_what_crashes_or_hangs_every_time_fails_after_its_retries_and_the_search_goes_on(root):
    words = ("cluster.hang_seconds=3", "cluster.max_retries=2")
    result = run(root, "fails", *words, first=(CRASHES, HANGS, CRASHES_ONCE), num_trials=5)
    rows = result.study.rows()
    assert [row.state for row in rows] == [TrialState.failed] * 2 + [TrialState.complete] * 3
    assert rows[0].reason == "RuntimeError: the device is gone (3 times)"
    assert rows[1].reason == "its worker hung and was ended (cluster.hang_seconds) (3 times)"
    assert kinds(root / "fails" / "0").count("failed") == 3
    assert kinds(root / "fails" / "2").count("failed") == 1
    assert rows[0].outcome.epoch == 2  # what it had reached is not lost
    statuses = {key: run.info.status for key, run in read_runs(root, "fails").items()}
    assert [statuses[f"fails/{number}"] for number in range(5)] == ["FAILED"] * 2 + ["FINISHED"] * 3


def test_a_trial_is_stopped_when_its_time_is_over_with_what_it_reached(root):
    result = run(root, "timed", "cluster.trial_seconds=0.8")
    rows = result.study.rows()
    assert [row.state for row in rows] == [TrialState.stopped] * 3
    assert {row.outcome.epoch for row in rows} == {3.0}  # 0.3 s each
    assert {row.reason for row in rows} == {"its time is over (cluster.trial_seconds): trained for 0.8 s"}
    assert all(row.value is not None for row in rows)


def test_a_configuration_is_trained_with_paired_seeds_and_told_as_their_mean(root):
    result = run(root, "seeds", "sweep.replicates=2")
    for row in result.study.rows():
        folders = [root / "seeds" / str(row.number) / name for name in "01"]
        seeds = [events.read_json(folder / events.GIVEN)["config"]["seed"] for folder in folders]
        last = [events.reports(folder)[-1]["metrics"]["val/accuracy"] for folder in folders]
        assert seeds == [0, 1]
        assert row.value == pytest.approx(sum(last) / 2)
        assert row.outcome.errors["val/accuracy"] == pytest.approx(abs(last[0] - last[1]) / 2)
        assert len(row.outcome.replicates) == 2
    assert len(read_runs(root, "seeds")) == 1 + 3 + 6
    assert result.study.spent.train_flops == 3 * 2 * 4e6
