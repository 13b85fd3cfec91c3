"""Commands over the life of a sweep: stop, logs, rm, gc, and what list says of it."""

from __future__ import annotations

import functools
import json
import threading
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from replicate_folders import Replicated
from stand_in import RANDOM, LearningRates

from sweeps.cli.app import main
from sweeps.config import compose
from sweeps.config.settings import SweepConfig
from sweeps.kept import events
from sweeps.kept.trials import Outcome, TrialState
from sweeps.records import disk, retention, tracking_store
from sweeps.run import lease
from sweeps.run.heartbeat import Heartbeat
from sweeps.run.monitor import Stop
from sweeps.search import Study, open_storage, study_url
from sweeps.views import logs
from sweeps.views.progress import Logged


@functools.cache
def config() -> SweepConfig:
    """Composing takes a second, so it is done once."""
    return compose.load(["space=demo", "model=mlp"])


def make_sweep(root: Path, name: str, num_trials: int = 5) -> Study:
    """Five trials: 0.5, 0.9 and 0.7 are complete, one failed, one runs; each has a checkpoint."""
    (root / name).mkdir(parents=True)
    plan = {"format": events.FORMAT, "name": name, "command": "sweeps launch", "created": "today"}
    plan |= {"commit": None, "workdir": str(root), "config": config().to_dict()}
    (root / name / "plan.yaml").write_text(yaml.safe_dump(plan))
    study = Study.create(study_url(root), name, RANDOM, budget=num_trials)
    for number in range(5):
        study.ask(LearningRates())
        checkpoint = root / name / str(number) / "checkpoints" / "step-000000040"
        checkpoint.mkdir(parents=True)
        (checkpoint / "state.bin").write_bytes(b"x" * 1000)
        if number < 4:
            outcome = {"state": "complete", "reason": None, "checkpoint": str(checkpoint)}
            events.write_json(root / name / str(number) / events.OUTCOME, outcome)
    for number, value in enumerate((0.5, 0.9, 0.7)):
        study.complete(number, value, Outcome())
    study.fail(3, "the loss became nan", Outcome())
    return study


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_sweep(tmp_path, "s")
    return tmp_path


def sweeps(root: Path, *words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--root", str(root)])


def checkpoints(root: Path) -> list[int]:
    return sorted(int(path.parents[1].name) for path in root.glob("s/*/checkpoints/*"))


# stop


def test_stopping_what_does_not_run_says_so_and_how_to_continue(root):
    done = sweeps(root, "stop", "s")
    assert done.exit_code == 0
    assert "s is not running. To continue it: sweeps resume s --root" in done.output


def test_stop_asks_the_driver_and_waits_until_it_has_stopped(root):
    mine, stop, said = lease.acquire(study_url(root), "s"), Stop(), []
    pulse = Heartbeat(mine, stop, said.append)

    def drive() -> None:
        while not stop.asked:
            pulse.tick()
        mine.release()

    driver = threading.Thread(target=drive)
    driver.start()
    done = sweeps(root, "stop", "s")
    driver.join()
    assert done.exit_code == 0
    assert "s has stopped. To continue it: sweeps resume s" in done.output
    assert said == ["stopping, as `sweeps stop` asked: running trials write a checkpoint first"]
    assert not lease.acquire(study_url(root), "s").stop_asked


def test_stopping_an_unknown_sweep_is_a_wrong_request(root):
    assert sweeps(root, "stop", "nope").exit_code == 2


def test_a_driver_whose_lease_was_taken_stops_and_does_its_beats_no_more(root, monkeypatch):
    monkeypatch.setattr("sweeps.run.heartbeat.BEAT_SECONDS", 0.0)
    mine, stop, said, beats = lease.acquire(study_url(root), "s"), Stop(), [], []
    pulse = Heartbeat(mine, stop, said.append)
    pulse.also(lambda: beats.append(1))
    pulse.tick()
    assert (len(beats), stop.asked) == (1, False)
    with open_storage(study_url(root)).engine.begin() as connection:
        connection.execute(lease._LEASES.update().values(owner="another", host="elsewhere", pid=7))
    pulse.tick()
    pulse.tick()
    assert (len(beats), stop.asked, pulse.is_lost) == (1, True, True)
    assert len(said) == 1
    assert "belongs to process 7 on elsewhere" in said[0]


# list


def test_list_tells_what_runs_from_what_was_interrupted_failed_or_is_complete(root):
    make_sweep(root, "live")
    make_sweep(root, "gone")
    make_sweep(root, "broken")
    events.write_json(root / "broken" / events.OUTCOME, {"status": "failed"})
    make_sweep(root, "over").complete(4, 0.1, Outcome())
    lease.acquire(study_url(root), "live")
    lease.acquire(study_url(root), "gone")
    with open_storage(study_url(root)).engine.begin() as connection:
        dead = lease._LEASES.update().where(lease._LEASES.c.sweep == "gone")
        connection.execute(dead.values(machine="elsewhere", beat=0.0))
    told = {row["name"]: row["status"] for row in json.loads(sweeps(root, "list", "--json").output)}
    host = lease.holder(study_url(root), "live").host
    assert told == {
        "s": "interrupted",
        "live": f"running on {host}",
        "gone": "interrupted",
        "broken": "failed",
        "over": "complete",
    }
    assert f"running on {host}" in sweeps(root, "list").output


def test_show_says_what_was_spent(root):
    assert "spent: 5 of 5 trials" in sweeps(root, "show", "s").output


# logs


def write_trial(folder: Path) -> None:
    writer = events.EventWriter(folder)
    writer.write("started", {"continues": None, "pid": 12, "host": "node1"})
    edit = {"kind": "grow", "layer": "conv1", "number": 2, "reason": "largest improvement"}
    finding = {"severity": "warn", "layer": "conv2", "reason": "vanishes.", "fix": "Raise init_gain."}
    report = {"step": 10, "epoch": 1.0, "metrics": {"val/accuracy": 0.5}, "edits": [edit]}
    writer.write("report", {**report, "findings": [finding], "finished": False})
    again = events.EventWriter(folder)
    again.write("started", {"continues": "step-000000010", "pid": 13, "host": "node2"})
    again.write("failed", {"reason": "ValueError: no", "traceback": "Traceback\n  here\nValueError: no\n"})
    events.write_json(folder / events.OUTCOME, {"state": "failed", "reason": "ValueError: no"})


def test_the_log_of_a_trial_tells_its_life_in_order(root):
    write_trial(root / "s" / "3")
    lines = sweeps(root, "logs", "s/3").output.splitlines()
    said = [line[21:] for line in lines]
    assert said == [
        "attempt 1 starts, process 12 on node1",
        "epoch 1, step 10: val acc 0.5000",
        "  grow conv1 by 2: largest improvement",
        "  warn: conv2: vanishes. Raise init_gain.",
        "attempt 2 continues from step-000000010, process 13 on node2",
        "failed: ValueError: no",
        "Traceback",
        "  here",
        "ValueError: no",
        "failed: ValueError: no",
    ]


def test_a_lost_worker_is_told_with_where_it_stood(root):
    lost = {"reason": "its worker hung and was ended", "traceback": "File here\n  wait()\n"}
    events.EventWriter(root / "s" / "4").write("lost", lost)
    said = [line[21:] for line in sweeps(root, "logs", "s/4").output.splitlines()]
    assert said == ["lost: its worker hung and was ended", "File here", "  wait()"]


# The mean 0.8 has deviations -0.1, 0.1, 0: an error of 0.1 / sqrt(3).
CURVES = ([0.5, 0.7], [0.5, 0.9], [0.5, 0.8])


@pytest.fixture
def replicated(root) -> Replicated:
    return Replicated(root / "s" / "5", CURVES)


def test_the_log_of_a_trial_with_several_seeds_tells_means_and_where_each_seed_has_its_own(root, replicated):
    replicated.write()
    above, started, *reports, end = sweeps(root, "logs", "s/5").output.splitlines()
    assert above.strip() == (
        "means over 3 seeds, ± standard error; each has a log of its own, s/5/0 to s/5/2: "
        f"sweeps logs s/5/0 --root {root}"
    )
    assert started[21:] == "attempt 1 starts, process 7 on here"
    assert [line[21:] for line in reports] == [
        "epoch 1, step 10: val acc 0.5000 ± 0.0000, val loss 0.5000, params 1,100, non-zero 500",
        "epoch 2, step 20: val acc 0.8000 ± 0.0577, val loss 0.2000, params 1,100, non-zero 500",
    ]
    assert end.strip() == "complete"


def test_the_log_of_a_replicate_tells_its_edits_and_findings_and_ends_as_its_trial(root, replicated):
    replicated.given()
    replicated.report()
    running = [line[21:] for line in sweeps(root, "logs", "s/5/1").output.splitlines()]
    replicated.end("failed", "the loss became nan")
    said = [line[21:] for line in sweeps(root, "logs", "s/5/1").output.splitlines()]
    assert said == [*running, "failed: the loss became nan"]
    assert said[1:4] == [
        "epoch 1, step 10: val acc 0.5000, val loss 0.5000, params 1,100, non-zero 500",
        "  grow conv1 by 1: r",
        "  warn: conv1: Vanishes. Raise.",
    ]
    assert "±" not in "".join(said)


def test_what_ranks_is_told_first_where_it_is_no_metric_that_is_always_shown():
    metrics = {"val/accuracy": 0.5, "val/f1": 0.25}
    report = {"kind": "report", "time": 0, "epoch": 1, "step": 10, "metrics": metrics, "edits": []}
    (mean,) = logs.readable({**report, "errors": {"val/accuracy": 0.125, "val/f1": 0.0625}}, "val/f1")
    assert mean[21:] == "epoch 1, step 10: val/f1 0.2500 ± 0.0625, val acc 0.5000"
    (once,) = logs.readable(report, "val/f1")
    assert once[21:] == "epoch 1, step 10: val acc 0.5000"


def test_following_a_replicate_ends_with_its_trial(root, replicated):
    lease.acquire(study_url(root), "s")  # a live driver
    replicated.given()
    replicated.report(last=1)

    def go_on() -> None:
        replicated.report(first=2)
        replicated.end()

    threading.Timer(0.3, go_on).start()
    for identity in ("s/5/2", "s/5"):
        said = sweeps(root, "logs", identity, "--follow").output.splitlines()
        assert said[-1].strip() == "complete"
        assert "epoch 2" in "".join(said)


@pytest.mark.parametrize("identity", ["s/5", "s/5/2"])
def test_following_what_has_ended_does_not_wait_for_its_driver(root, replicated, monkeypatch, identity):
    replicated.write()
    monkeypatch.setattr("sweeps.run.manage.live_driver", lambda *_: pytest.fail("the driver was asked for"))
    assert sweeps(root, "logs", identity, "--follow").output.splitlines()[-1].strip() == "complete"


@pytest.mark.parametrize(
    ("identity", "known"),
    [("s/5/3", "s/5 has no replicate 3. Its replicates: 0 to 2."), ("s/2/0", "none, as it is trained once")],
)
def test_logs_of_an_unknown_replicate_name_the_known(root, replicated, identity, known):
    replicated.given()
    done = sweeps(root, "logs", identity)
    assert (done.exit_code, known in done.output) == (2, True)


def test_raw_logs_are_the_events_as_written(root):
    write_trial(root / "s" / "3")
    write_trial(root / "s" / "3" / "1")  # a replicate
    for identity in ("s/3", "s/3/1"):
        told = [json.loads(line) for line in sweeps(root, "logs", identity, "--json").output.splitlines()]
        assert [event["kind"] for event in told] == ["started", "report", "started", "failed"]
    every = [json.loads(line) for line in sweeps(root, "logs", "s", "--json").output.splitlines()]
    assert [event["trial"] for event in every] == [3] * 4


def test_following_shows_what_comes_and_ends_with_the_trial(root):
    folder = root / "s" / "4"
    lease.acquire(study_url(root), "s")  # a live driver
    events.EventWriter(folder).write("started", {"continues": None, "pid": 1, "host": "a"})
    threading.Timer(0.3, write_trial, [folder]).start()
    said = sweeps(root, "logs", "s/4", "--follow").output.splitlines()
    assert "attempt 1 starts" in said[0]
    assert said[-1].endswith("failed: ValueError: no")


def test_the_log_of_a_sweep_is_what_its_drivers_said(root):
    class Quiet:
        def say(self, text: str) -> None: ...

    shown = Logged(Quiet(), root / "later" / disk.LOG, "val/accuracy")
    shown.say("before there is a folder")
    (root / "later").mkdir()
    shown.say("after")
    (root / "later" / disk.LOG).replace(root / "s" / disk.LOG)
    said = sweeps(root, "logs", "s").output.splitlines()
    assert [line[21:] for line in said] == ["before there is a folder", "after"]


@pytest.mark.parametrize("identity", ["s/9", "s/x"])
def test_logs_of_an_unknown_trial_name_the_known(root, identity):
    done = sweeps(root, "logs", identity)
    assert done.exit_code == 2
    assert "Its trials: 0 to 4" in done.output


# gc


@pytest.mark.parametrize(("keep", "kept"), [(1, [1, 4]), (2, [1, 2, 4]), (3, [0, 1, 2, 4])])
def test_gc_keeps_checkpoints_of_the_best_and_of_what_has_not_ended(root, keep, kept):
    done = sweeps(root, "gc", "s", "--keep", str(keep))
    assert done.exit_code == 0
    assert checkpoints(root) == kept
    assert f"s: {(5 - len(kept)) / 1000:.1f} MB" in done.output
    for number in range(4):
        claimed = events.read_json(root / "s" / str(number) / events.OUTCOME)["checkpoint"]
        assert (claimed is not None) == (number in kept)
    again = sweeps(root, "gc", "s", "--keep", str(keep))
    assert "s: 0.0 MB" in again.output


def test_gc_that_only_looks_removes_nothing(root):
    done = sweeps(root, "gc", "--keep", "1", "--dry-run")
    assert "would be freed" in done.output
    assert checkpoints(root) == [0, 1, 2, 3, 4]


def test_gc_keeps_the_pareto_front_and_removes_replicates_checkpoints_too(tmp_path):
    from sweeps.search import Goals

    goals = Goals(objectives={"val/accuracy": "maximize", "model/parameters": "minimize"})
    study = Study.create("sqlite://", "s", RANDOM, goals=goals, budget=3)
    for number, (accuracy, size) in enumerate([(0.9, 100.0), (0.8, 200.0), (0.5, 10.0)]):
        study.ask(LearningRates())
        study.complete(number, accuracy, Outcome(metrics={"model/parameters": size}))
        (tmp_path / str(number) / "0" / "checkpoints" / "step").mkdir(parents=True)
    retention.collect(study, tmp_path, keep=1)
    assert sorted(path.parts[-4] for path in tmp_path.glob("*/0/checkpoints/*")) == ["0", "2"]


def test_gc_removes_every_replicates_checkpoints_and_then_none_is_claimed(tmp_path):
    study = Study.create("sqlite://", "s", RANDOM, budget=2)
    for number, value in enumerate((0.5, 0.9)):
        study.ask(LearningRates())
        trial = Replicated(tmp_path / str(number), [[value], [value]])
        study.complete(number, value, trial.write())
    freed = retention.collect(study, tmp_path, keep=1, dry_run=True)
    assert freed == 2 * len("weights of 0")
    assert retention.collect(study, tmp_path, keep=1) == freed
    assert sorted(path.parts[-4] for path in tmp_path.glob("*/*/checkpoints/*")) == ["1", "1"]
    claims = [events.read_json(tmp_path / number / events.OUTCOME)["checkpoint"] for number in "01"]
    assert (claims[0], Path(claims[1]).parts[-3:-1]) == (None, ("0", "checkpoints"))
    assert all((tmp_path / "0" / index / "events").is_dir() for index in "01")


# rm


def test_rm_removes_study_folder_and_records(root):
    from sweeps.records import projection

    tracking = tracking_store.open_tracking(tracking_store.default_uri(root), "growsweep", root)
    plan = disk.read_plan(root, "s")
    projection.Projector(tracking, root / "s", plan).project()
    make_sweep(root, "other")
    done = sweeps(root, "rm", "s", "--yes")
    assert done.exit_code == 0, done.output
    assert "removed s: 5 trials" in done.output
    assert not (root / "s").exists()
    assert [row["name"] for row in json.loads(sweeps(root, "list", "--json").output)] == ["other"]
    runs = tracking_store.client(tracking.uri).search_runs([tracking.experiment_id])
    assert runs == []
    assert lease.holders(study_url(root)) == {}


def test_rm_that_was_interrupted_is_done_again(root):
    from sweeps.search import delete_study

    delete_study(study_url(root), "s")
    (root / "s" / "3" / events.OUTCOME).unlink()
    assert sweeps(root, "rm", "s", "--yes", "--keep-records").exit_code == 0
    assert not (root / "s").exists()


def test_rm_refuses_a_sweep_that_runs_and_asks_nobody_who_is_not_there(root):
    asked = sweeps(root, "rm", "s")
    assert (asked.exit_code, (root / "s").exists()) == (2, True)
    assert "add --yes" in asked.output
    lease.acquire(study_url(root), "s")
    refused = sweeps(root, "rm", "s", "--yes")
    assert (refused.exit_code, (root / "s").exists()) == (2, True)
    assert "s runs already" in refused.output


# extend and enqueue


def test_extend_changes_several_budgets_of_a_sweep_that_runs(root):
    lease.acquire(study_url(root), "s")
    done = sweeps(root, "extend", "s", "--trials", "+3", "--hours", "2", "--train-flops", "1e14")
    assert "s may run 8 trials or 2 h or 1e+14 train FLOPs now" in done.output
    study = disk.open_study(root, "s")
    assert study.budget.to_dict() == {"num_trials": 8, "hours": 2.0, "gpu_hours": None, "train_flops": 1e14}
    assert not study.is_over


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "Say what there is to be more of"), (["--gpu-hours", "8"], "trials of s hold no GPU")],
)
def test_extend_refuses_what_changes_nothing(root, words, message):
    done = sweeps(root, "extend", "s", *words)
    assert done.exit_code == 2
    assert message in done.output


def test_a_trial_that_runs_is_never_dispensable(root):
    study = disk.open_study(root, "s")
    states = {row.state for row in retention.dispensable(study, keep=1)}
    assert TrialState.running not in states


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            {"kind": "preempted", "reason": "its worker was told to end"},
            "preempted: its worker was told to end",
        ),
        ({"kind": "turn_over", "reason": "its turn is over"}, "turn over: its turn is over"),
        ({"kind": "exploit", "donor": 3, "step": 40}, "exploit: donor 3, step 40"),
    ],
)
def test_what_became_of_an_attempt_is_told_in_a_line(event, line):
    (told,) = logs.readable({**event, "time": 0.0, "attempt": 1}, "val/accuracy")
    assert told.endswith(f"  {line}")
