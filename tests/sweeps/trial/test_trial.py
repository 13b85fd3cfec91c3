"""One trial on one worker, without Ray's processes: reports, failures, continuation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from stand_in import StandIn, StandInTraining, accuracy_of, trial_config

from growcore.config import TrialConfig
from growcore.training import Training
from sweeps.kept import events
from sweeps.kept.endings import Ending
from sweeps.trial import replicate
from sweeps.trial.attempt import Attempt
from sweeps.trial.engine import Growcore
from sweeps.trial.job import Job
from sweeps.trial.worker import SweepTrial


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
    *_, failed = events.read_events(Path(job.folder))
    assert (failed["kind"], failed["reason"]) == ("failed", reason)
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


def test_a_checkpoint_that_cannot_be_written_is_said_and_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(replicate, "CHECKPOINT_SECONDS", 0.0)
    job, engine = make_job(tmp_path), StandIn()
    attempt = Attempt(job, engine)
    assert attempt.advance()["notes"] == []
    with monkeypatch.context() as full:
        full.setattr(
            StandIn, "save", lambda self, folder, training: (_ for _ in ()).throw(OSError("no space left"))
        )
        second = attempt.advance()
    (note,) = second["notes"]
    assert note.startswith("a checkpoint cannot be written: no space left; training goes on")
    assert Path(second["checkpoint"]).name == "step-000000010"
    third = attempt.advance()
    assert third["notes"] == []
    assert Path(third["checkpoint"]).name == "step-000000030"
    assert [e["reason"] for e in events.read_events(Path(job.folder)) if e["kind"] == "warning"] == [note]


def test_what_cannot_be_recorded_ends_the_attempt_and_claims_nothing(tmp_path, monkeypatch):
    job = make_job(tmp_path)
    attempt = Attempt(job, StandIn())
    attempt.advance()
    monkeypatch.setattr(
        Path, "write_text", lambda self, text: (_ for _ in ()).throw(OSError("no space left"))
    )
    result = attempt.advance()
    monkeypatch.undo()
    assert (result["ending"], result["done"]) == (Ending.unrecorded, True)
    assert "no space left" in result["reason"]
    assert [report["step"] for report in events.reports(Path(job.folder))] == [10]


def test_a_preempted_attempt_keeps_what_it_reached_and_another_goes_on(tmp_path):
    job = make_job(tmp_path)
    attempt = Attempt(job, StandIn())
    attempt.advance()
    attempt.preempt()
    assert attempt.advance()["ending"] == Ending.preempted
    assert StandIn().newest(Path(job.folder) / "checkpoints").name == "step-000000010"
    engine = StandIn()
    assert run(job, engine)[-1]["ending"] == Ending.finished
    assert engine.built[-1].reported == [2, 3, 4]


def test_an_attempt_that_is_told_to_end_before_it_begins_builds_nothing(tmp_path):
    engine = StandIn()
    attempt = Attempt(make_job(tmp_path), engine)
    attempt.preempt()
    assert attempt.advance()["ending"] == Ending.preempted
    assert engine.built == []


def replicated(folder: Path, num: int = 3, **training) -> Job:
    return replace(make_job(folder, **training), num_replicates=num)


def test_replicates_have_paired_seeds_and_are_reported_as_their_mean(tmp_path):
    engine, job = StandIn(), replicated(tmp_path)
    results = run(job, engine)
    assert [training.config.seed for training in engine.built] == [0, 1, 2]
    assert [result["epoch"] for result in results] == [1, 2, 3, 4]
    for result in results:
        values = [each["val/accuracy"] for each in result["replicates"]]
        assert len(set(values)) == 3
        assert result["metrics"]["val/accuracy"] == pytest.approx(sum(values) / 3)
    assert results[-1]["num_grown"] == 3 * 4
    means = events.reports(Path(job.folder))
    assert [report["metrics"] for report in means] == [result["metrics"] for result in results]
    assert means[-1]["errors"]["val/accuracy"] > 0


def test_replicates_that_were_cut_off_at_different_epochs_catch_up_before_the_next_mean(tmp_path):
    job = replicated(tmp_path, num=2)
    first, second = (Path(job.folder) / name for name in "01")
    run(job, num_results=2)
    for folder, epoch in ((first, 2), (second, 1)):
        training = StandInTraining(trial_config(), epoch=epoch)
        StandIn().save(folder / "checkpoints", training)
    engine = StandIn()
    results = run(job, engine)
    assert [training.reported for training in engine.built] == [[3, 4], [2, 3, 4]]
    assert [result["epoch"] for result in results] == [2, 3, 4]
    assert [report["step"] for report in events.reports(Path(job.folder))] == [10, 20, 30, 40]


def test_one_replicate_that_fails_fails_its_configuration(tmp_path):
    last = run(replicated(tmp_path, lr=0.95))[-1]
    assert (last["ending"], last["reason"]) == (Ending.failed, "the training loss became nan in epoch 2")


def test_each_replicate_trains_as_it_would_alone(tmp_path):
    config = {
        "data": {"name": "digits"},
        "model": {"name": "conv", "widths": [4, 4], "normalization": "batch"},
        "growth": {"method": "tiny", "start_epoch": 1, "every_epochs": 1, "num_neurons": 2},
        "pruning": {"method": "none"},
        "training": {"num_epochs": 3},
    }
    values = TrialConfig.from_dict(config).to_dict()
    job = replace(replicated(tmp_path, num=2), config=values, base=values)
    run(job, Growcore())
    for index in range(2):
        alone = list(Training(TrialConfig.from_dict({**values, "seed": index})))
        together = events.reports(Path(job.folder) / str(index))
        for there, here in zip(together, alone, strict=True):
            assert without_seconds(there["metrics"]) == without_seconds(here.metrics)


class ToldToEnd(Growcore):
    """Trains, and is told to end in the middle of its second epoch, as by a signal."""

    step = 30

    def build(self, config, device):
        training = super().build(config, device)
        train_step = training._train_step

        def told(x_NCHW, y_N):
            if training.step == self.step:
                self.attempt.preempt()
            return train_step(x_NCHW, y_N)

        training._train_step = told
        return training


def test_a_training_that_has_to_go_in_the_middle_of_an_epoch_ends_as_an_undisturbed_one(tmp_path):
    values = TrialConfig.from_dict(
        {
            "data": {"name": "digits"},
            "model": {"name": "conv", "widths": [4, 4]},
            "pruning": {"method": "hebbian", "k1": 0.5, "k2": 0.7, "update_interval": 7},
            "training": {"num_epochs": 3, "batch_size": 64},
        }
    ).to_dict()
    job, engine = replace(make_job(tmp_path), config=values, base=values), ToldToEnd()
    engine.attempt = Attempt(job, engine)
    while not (result := engine.attempt.advance())["done"]:
        pass
    assert result["ending"] == Ending.preempted
    assert Growcore().newest(Path(job.folder) / "checkpoints").name == "step-000000031"
    results = run(job, Growcore())
    undisturbed = list(Training(TrialConfig.from_dict(values)))
    reports = events.reports(Path(job.folder))
    assert results[-1]["ending"] == Ending.finished
    assert len(reports) == len(undisturbed)
    for there, here in zip(reports, undisturbed, strict=True):
        assert without_seconds(there["metrics"]) == without_seconds(here.metrics)


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(replicate, "CHECKPOINT_SECONDS", 0.0)
    values = TrialConfig.from_dict(
        {"data": {"name": "digits"}, "model": {"name": "mlp", "widths": [4]}, "training": {"num_epochs": 4}}
    ).to_dict()
    job = replace(make_job(tmp_path), config=values, base=values)
    run(job, Growcore(), num_results=3)
    newest = Growcore().newest(Path(job.folder) / "checkpoints")
    (newest / "state.pt").write_bytes(b"nonsense")
    results = run(job, Growcore())
    (note,) = results[0]["notes"]
    assert note.startswith(f"Checkpoint {newest} is damaged")
    assert [result["epoch"] for result in results] == [3, 4]
    alone = list(Training(TrialConfig.from_dict(values)))
    assert without_seconds(results[-1]["metrics"]) == without_seconds(alone[-1].metrics)


def without_seconds(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key != "cost/wall_seconds"}


@pytest.mark.parametrize(
    ("ending", "device", "ends"),
    [
        (Ending.crashed, "cuda", True),  # its context may be unusable
        (Ending.crashed, "cpu", False),
        (Ending.failed, "cuda", False),
        (Ending.preempted, "cpu", True),
        (None, "cuda", False),
    ],
)
def test_a_process_that_must_not_take_another_trial_ends(tmp_path, ending, device, ends):
    worker = SweepTrial.__new__(SweepTrial)  # Tune's own constructor needs a folder of Ray's
    worker._job = replace(make_job(tmp_path), device=device)
    assert worker._must_end(ending) == ends
