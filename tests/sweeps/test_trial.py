"""One trial on one worker, without Ray's processes: reports, failures, continuation."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_in import StandIn, accuracy_of, trial_config

from sweeps import events
from sweeps.endings import Ending
from sweeps.trial import Attempt, Job, replicate


@pytest.fixture(autouse=True)
def _stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a trial changes into the folder it was launched from


def make_job(folder: Path, **training) -> Job:
    return Job(
        sweep="s",
        number=0,
        folder=str(folder / "s" / "0"),
        workdir=str(folder),
        config=trial_config(**training).to_dict(),
        base=trial_config().to_dict(),
        device="cpu",
    )


def run(job: Job, engine: StandIn | None = None, num_results: int = 99) -> list[dict]:
    attempt = Attempt(job, engine or StandIn())
    results = []
    while len(results) < num_results and not (results and results[-1]["done"]):
        results.append(attempt.advance())
    return results


def test_each_step_is_the_next_report_and_the_last_one_is_done(tmp_path):
    results = run(make_job(tmp_path))
    assert [r["epoch"] for r in results] == [1, 2, 3, 4]
    assert [r["done"] for r in results] == [False, False, False, True]
    assert [r["num_grown"] for r in results] == [1, 2, 3, 4]
    assert results[-1]["metrics"]["val/accuracy"] == pytest.approx(accuracy_of(0.1) * (1 - 0.5**4))
    assert results[-1]["full_train_flops"] == 4e6


def test_every_report_lies_in_the_folder_before_it_is_returned(tmp_path):
    job = make_job(tmp_path)
    attempt = Attempt(job, StandIn())
    for number in range(1, 5):
        attempt.advance()
        assert len(events.reports(Path(job.folder))) == number


def test_a_finished_trial_leaves_its_checkpoint(tmp_path):
    result = run(make_job(tmp_path))[-1]
    assert Path(result["checkpoint"]).name == "step-000000040"


@pytest.mark.parametrize(
    ("training", "ending", "reason"),
    [
        ({"lr": 0.95}, Ending.failed, "the training loss became nan in epoch 2"),
        ({"batch_size": 13}, Ending.crashed, "RuntimeError: thirteen"),
    ],
)
def test_what_training_raises_ends_the_trial_with_its_reason_and_spares_the_worker(
    tmp_path, training, ending, reason
):
    job = make_job(tmp_path, **training)
    last = run(job)[-1]
    assert (last["ending"], last["reason"], last["done"]) == (ending, reason, True)
    assert events.failure(Path(job.folder)) == reason
    *_, failed = events.read_events(Path(job.folder))
    assert "Traceback" in failed["traceback"]


def test_a_trial_continues_from_its_checkpoint_and_counts_each_edit_once(tmp_path, monkeypatch):
    monkeypatch.setattr(replicate, "CHECKPOINT_SECONDS", 0.0)
    job = make_job(tmp_path)
    run(job, num_results=2)
    engine = StandIn()
    results = run(job, engine)
    assert engine.built[-1].reported == [3, 4]
    assert results[-1]["num_grown"] == 4
    assert [e["step"] for e in events.edits(Path(job.folder))] == [10, 20, 30, 40]


def test_a_worker_that_is_told_to_end_keeps_what_was_reached(tmp_path):
    job = make_job(tmp_path)
    attempt = Attempt(job, StandIn())
    attempt.advance()
    assert StandIn().newest(Path(job.folder) / "checkpoints") is None
    attempt.close()
    assert StandIn().newest(Path(job.folder) / "checkpoints").name == "step-000000010"


def test_a_trial_that_finished_unheard_is_not_trained_again(tmp_path):
    job = make_job(tmp_path)
    heard = run(job)[-1]
    engine = StandIn()
    (again,) = run(job, engine)
    assert again == heard
    assert engine.built[-1].reported == []


def test_a_finished_report_without_its_checkpoint_is_trained_again(tmp_path, monkeypatch):
    job = make_job(tmp_path)
    monkeypatch.setattr(replicate, "CHECKPOINT_SECONDS", 0.0)
    run(job, num_results=3)
    monkeypatch.setattr(
        StandIn, "save", lambda self, folder, training: (_ for _ in ()).throw(OSError("full"))
    )
    last = run(job)[-1]
    assert (last["ending"], last["done"]) == (Ending.unrecorded, True)
    assert last["reason"] == "a checkpoint cannot be written: full"
    monkeypatch.undo()
    engine = StandIn()
    assert run(job, engine)[-1]["ending"] == Ending.finished
    assert engine.built[-1].reported == [4]
