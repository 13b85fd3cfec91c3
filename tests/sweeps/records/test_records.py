"""The projection to MLflow: everything once, whatever is projected how often."""

from __future__ import annotations

import socket
import warnings
from pathlib import Path

import pytest
import yaml
from replicate_folders import Replicated
from stand_in import trial_config

from sweeps.config.errors import ConfigError
from sweeps.kept import events
from sweeps.kept.events import EventWriter
from sweeps.records import projection, tracking_store
from sweeps.records.projection import Projector
from sweeps.records.tracking_store import Tracking

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlflow.tracking import MlflowClient


@pytest.fixture(scope="module")
def tracking(tmp_path_factory) -> Tracking:
    root = tmp_path_factory.mktemp("store")
    return tracking_store.open_tracking(tracking_store.default_uri(root), "growsweep", root)


PLAN = {
    "command": "sweeps launch",
    "commit": "abc",
    "config": {key: {"x": 1} for key in ("space", "sweep", "search", "scheduler", "cluster")},
}


@pytest.fixture
def folder(tmp_path, request) -> Path:
    folder = tmp_path / request.node.name
    folder.mkdir()
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    return folder


def give(folder: Path, number: int) -> Path:
    trial = folder / str(number)
    given = {
        "params": {"optimizer.lr": 0.125},
        "command": "sweeps train optimizer.lr=0.125",
        "config": trial_config(lr=0.125).to_dict(),
    }
    events.write_json(trial / events.GIVEN, given)
    return trial


def report(step: int) -> dict:
    edit = {"step": step, "epoch": 1, "layer": "conv1", "kind": "grow", "number": 2, "reason": "most to gain"}
    metrics = {"val/accuracy": step / 100, "val/accuracy/class 3": 0.5}
    return {"step": step, "epoch": step // 10, "metrics": metrics, "edits": [edit], "finished": False}


def end(trial: Path, state: str = "complete", reason: str | None = None) -> None:
    checkpoint = trial / "checkpoints" / "step-000000020"
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "state.pt").write_bytes(b"weights")
    events.write_json(
        trial / events.OUTCOME, {"state": state, "reason": reason, "checkpoint": str(checkpoint)}
    )


def runs(tracking: Tracking, folder: Path, kind: str) -> list:
    client = MlflowClient(tracking.uri)
    which = f"tags.`growsweep.sweep` = '{folder.name}' and tags.`growsweep.kind` = '{kind}'"
    return client.search_runs([tracking.experiment_id], which)


def steps(tracking: Tracking, run_id: str) -> list[int]:
    return [m.step for m in MlflowClient(tracking.uri).get_metric_history(run_id, "val/accuracy")]


def test_a_trial_becomes_a_child_run_with_params_metrics_tags_and_artifacts(tracking, folder):
    trial = give(folder, 0)
    writer = EventWriter(trial)
    for step in (10, 20):
        writer.write("report", report(step))
    end(trial)
    Projector(tracking, folder, PLAN).project()
    (child,), (parent,) = runs(tracking, folder, "trial"), runs(tracking, folder, "sweep")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["growsweep.trial"] == "0"
    assert child.data.tags["growsweep.git_commit"] == "abc"
    assert child.data.tags["growsweep.status"] == "complete"
    assert child.data.tags["growsweep.command"] == "sweeps train optimizer.lr=0.125"
    assert child.data.params["optimizer.lr"] == "0.125"
    assert child.data.params["data.name"] == "digits"
    assert child.data.metrics["val/accuracy"] == 0.2
    assert child.info.status == "FINISHED"
    assert steps(tracking, child.info.run_id) == [10, 20]
    client = MlflowClient(tracking.uri)
    artifacts = {a.path for a in client.list_artifacts(child.info.run_id)}
    assert artifacts == {"config.yaml", "edits.json", "edits.txt", "checkpoint"}
    assert [a.path for a in client.list_artifacts(parent.info.run_id)] == ["plan.yaml"]


def test_projecting_again_by_a_new_driver_changes_nothing(tracking, folder):
    trial = give(folder, 0)
    writer = EventWriter(trial)
    writer.write("report", report(10))
    Projector(tracking, folder, PLAN).project()
    again = Projector(tracking, folder, PLAN)
    again.project()
    writer.write("report", report(20))
    again.project()
    EventWriter(trial).write("report", report(20))  # a later attempt repeats the step
    again.project()
    (child,) = runs(tracking, folder, "trial")
    assert steps(tracking, child.info.run_id) == [10, 20]
    assert len(runs(tracking, folder, "sweep")) == 1


@pytest.mark.parametrize(("state", "status"), [("failed", "FAILED"), ("stopped", "KILLED")])
def test_a_run_ends_as_its_trial_did_and_says_why(tracking, folder, state, status):
    trial = give(folder, 3)
    end(trial, state, "the loss became nan")
    Projector(tracking, folder, PLAN).project()
    (child,) = runs(tracking, folder, "trial")
    assert child.info.status == status
    assert child.data.tags["growsweep.reason"] == "the loss became nan"
    assert "checkpoint" not in {a.path for a in MlflowClient(tracking.uri).list_artifacts(child.info.run_id)}


def test_leaving_the_block_sends_what_is_left_and_closes_the_sweep(tracking, folder):
    with Projector(tracking, folder, PLAN) as projector:
        trial = give(folder, 0)
        EventWriter(trial).write("report", report(10))
        end(trial)
        events.write_json(
            folder / events.OUTCOME, {"status": "complete", "metrics": {"best/x": 1.0}, "time": 1.0}
        )
    assert projector.complaint is None
    (parent,), (child,) = runs(tracking, folder, "sweep"), runs(tracking, folder, "trial")
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert parent.data.metrics["best/x"] == 1.0


# Several seeds a configuration

CURVES = ([0.25, 0.5], [0.75, 0.5], [0.5, 0.875])
SEARCH = {"metric": "val/accuracy", "further_objectives": {"model/parameters": "minimize"}}
PLAN_WITH_GOALS = {**PLAN, "config": {**PLAN["config"], "search": SEARCH}}


@pytest.fixture
def replicated(folder) -> Replicated:
    return Replicated(folder / "4", CURVES)


def project(tracking: Tracking, folder: Path) -> None:
    """As a driver that starts anew does."""
    Projector(tracking, folder, PLAN_WITH_GOALS).project()


def artifacts(tracking: Tracking, run_id: str) -> set[str]:
    return {a.path for a in MlflowClient(tracking.uri).list_artifacts(run_id)}


def text(tracking: Tracking, run_id: str, path: str) -> str:
    return Path(MlflowClient(tracking.uri).download_artifacts(run_id, path)).read_text()


def replicate_runs(tracking: Tracking, folder: Path) -> list:
    found = runs(tracking, folder, "replicate")
    return sorted(found, key=lambda run: run.data.tags["growsweep.replicate"])


def test_a_trial_with_several_seeds_is_a_run_of_means_with_a_child_for_each_seed(
    tracking, folder, replicated
):
    replicated.write()
    project(tracking, folder)
    (trial,), children = runs(tracking, folder, "trial"), replicate_runs(tracking, folder)
    assert trial.data.metrics["val/accuracy"] == 0.625
    assert [run.data.metrics["val/accuracy"] for run in children] == [0.5, 0.5, 0.875]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {trial.info.run_id}
    assert [run.data.tags["growsweep.id"] for run in children] == [f"{folder.name}/4/{k}" for k in range(3)]
    assert [run.data.params["seed"] for run in children] == ["0", "1", "2"]
    assert [run.info.run_name for run in children] == ["4/0 seed 0", "4/1 seed 1", "4/2 seed 2"]
    assert children[1].data.tags["growsweep.command"].endswith("seed=1")
    assert {run.info.status for run in (trial, *children)} == {"FINISHED"}
    assert [steps(tracking, run.info.run_id) for run in (trial, *children)] == [[10, 20]] * 4


def test_means_have_standard_errors_beside_what_people_judge_by_and_nothing_else(
    tracking, folder, replicated
):
    outcome = replicated.write()
    project(tracking, folder)
    (trial,), children = runs(tracking, folder, "trial"), replicate_runs(tracking, folder)
    told = {key: value for key, value in trial.data.metrics.items() if key.endswith(" standard error")}
    judged = ("val/accuracy", "val/loss", "test/accuracy", "model/parameters")
    assert told == pytest.approx({f"{key} standard error": outcome.errors[key] for key in judged})
    assert not any("standard error" in key for run in children for key in run.data.metrics)


def test_each_seed_keeps_its_own_edits_findings_and_checkpoint_and_the_trial_none(
    tracking, folder, replicated
):
    replicated.write()
    project(tracking, folder)
    (trial,), children = runs(tracking, folder, "trial"), replicate_runs(tracking, folder)
    assert artifacts(tracking, trial.info.run_id) == {"config.yaml"}
    every = {"config.yaml", "edits.json", "edits.txt", "checkpoint"}
    kept = [artifacts(tracking, run.info.run_id) for run in children]
    assert kept == [every, every | {"preflight.txt"}, every]
    for index, run in enumerate(children):
        assert text(tracking, run.info.run_id, "edits.txt").count("prune") == index
        assert text(tracking, run.info.run_id, "checkpoint/state.pt") == f"weights of {index}"
    assert [run.data.tags["preflight"] for run in children] == ["ok", "warn", "ok"]
    assert trial.data.tags["preflight"] == "warn"


def test_projecting_replicates_again_by_a_new_driver_sends_nothing_twice(tracking, folder, replicated):
    replicated.given()
    replicated.report(last=1)
    project(tracking, folder)
    project(tracking, folder)
    open_runs = (*runs(tracking, folder, "trial"), *replicate_runs(tracking, folder))
    assert {run.info.status for run in open_runs} == {"RUNNING"}
    replicated.report()  # by a new worker, that begins anew
    replicated.end()
    project(tracking, folder)
    project(tracking, folder)
    (trial,), children = runs(tracking, folder, "trial"), replicate_runs(tracking, folder)
    assert [run.info.run_id for run in (trial, *children)] == [run.info.run_id for run in open_runs]
    assert [steps(tracking, run.info.run_id) for run in (trial, *children)] == [[10, 20]] * 4
    key = "val/accuracy standard error"
    errors = MlflowClient(tracking.uri).get_metric_history(trial.info.run_id, key)
    assert [point.step for point in errors] == [10, 20]


def test_a_driver_that_goes_on_sends_replicates_what_is_new(tracking, folder, replicated):
    projector = Projector(tracking, folder, PLAN_WITH_GOALS)
    replicated.folder.mkdir()
    (replicated.folder / "0").mkdir()
    projector.project()
    assert runs(tracking, folder, "trial") == replicate_runs(tracking, folder) == []
    replicated.given()
    replicated.report(last=1)
    projector.project()
    replicated.report(first=2)
    replicated.end()
    projector.project()
    children = replicate_runs(tracking, folder)
    assert [steps(tracking, run.info.run_id) for run in children] == [[10, 20]] * 3
    assert {run.info.status for run in children} == {"FINISHED"}


@pytest.mark.parametrize(("state", "status"), [("failed", "FAILED"), ("stopped", "KILLED")])
def test_replicates_end_as_their_trial_did_and_say_why(tracking, folder, replicated, state, status):
    replicated.given()
    replicated.report(last=1)
    replicated.end(state, "the loss became nan")
    project(tracking, folder)
    for run in (*runs(tracking, folder, "trial"), *replicate_runs(tracking, folder)):
        assert (run.info.status, run.data.tags["growsweep.status"]) == (status, state)
        assert run.data.tags["growsweep.reason"] == "the loss became nan"
        assert "checkpoint" not in artifacts(tracking, run.info.run_id)


def test_a_replicate_that_passed_its_preflight_is_not_judged_by_another_that_did_not(
    tracking, folder, replicated
):
    replicated.given()
    events.EventWriter(replicated.folder / "0").write("report", replicated._report(0, 1))
    reason = "infeasible: out: no signal"
    outcome = {"state": "infeasible", "reason": reason, "checkpoint": None}
    events.write_json(replicated.folder / events.OUTCOME, outcome)
    project(tracking, folder)
    (trial,), children = runs(tracking, folder, "trial"), replicate_runs(tracking, folder)
    assert trial.data.tags["preflight"] == "fail"
    assert [run.data.tags["preflight"] for run in children] == ["ok", "fail", "fail"]


def test_checkpoints_of_replicates_that_were_removed_are_not_sent(tracking, folder, replicated):
    replicated.write()
    outcome = events.read_json(replicated.folder / events.OUTCOME)
    events.write_json(replicated.folder / events.OUTCOME, {**outcome, "checkpoint": None})
    project(tracking, folder)
    kept = [artifacts(tracking, run.info.run_id) for run in replicate_runs(tracking, folder)]
    assert not any("checkpoint" in paths for paths in kept)


def test_what_is_reported_while_a_trial_ends_is_sent_with_its_end(tracking, folder, monkeypatch):
    """Between looking for new reports and for the outcome, a trial may write both."""
    trial = give(folder, 0)
    segments = events.segments

    def ending(at: Path) -> list[Path]:
        found = segments(at)
        if not (trial / events.OUTCOME).exists():
            EventWriter(trial).write("report", report(20))
            end(trial)
        return found

    monkeypatch.setattr(events, "segments", ending)
    projector = Projector(tracking, folder, PLAN)
    projector.project()
    projector.project()
    (child,) = runs(tracking, folder, "trial")
    assert steps(tracking, child.info.run_id) == [20]


def test_an_outage_delays_records_and_loses_none(tracking, folder, monkeypatch):
    monkeypatch.setattr(projection, "_POLL_SECONDS", 0.05)
    down = {"is": True}
    search = MlflowClient.search_runs

    def flaky(self, *args, **kwargs):
        if down["is"]:
            raise ConnectionError("refused")
        return search(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "search_runs", flaky)
    with Projector(tracking, folder, PLAN) as projector:
        trial = give(folder, 0)
        EventWriter(trial).write("report", report(10))
        end(trial)
        for _ in range(100):
            if projector.complaint:
                break
            projector._stopping.wait(0.05)
        assert projector.complaint == "ConnectionError: refused"
        down["is"] = False
    assert projector.complaint is None
    (child,) = runs(tracking, folder, "trial")
    assert steps(tracking, child.info.run_id) == [10]


def test_the_edit_log_reads_like_sentences():
    text = projection.readable(report(10)["edits"])
    assert text == "epoch 1, step 10: grow conv1 by 2: most to gain\n"
    assert projection.readable([]) == "no edits\n"


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_does_not_answer_is_named_with_the_fix(scheme, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"{scheme}://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ConfigError, match=rf"tracking.uri={uri} does not answer.*tracking.uri=null"):
        tracking_store.open_tracking(uri, "growsweep", tmp_path)


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns"])
def test_the_file_store_is_refused(uri, tmp_path):
    with pytest.raises(ConfigError, match=rf"tracking.uri={uri} is a folder.*sqlite:///PATH"):
        tracking_store.open_tracking(uri, "growsweep", tmp_path)


def test_a_database_that_cannot_be_opened_is_named(tmp_path):
    uri = f"sqlite:///{tmp_path / 'missing' / 'mlflow.db'}"
    (tmp_path / "missing").touch()
    with pytest.raises(ConfigError, match=r"tracking.uri=sqlite.*does not answer"):
        tracking_store.open_tracking(uri, "growsweep", tmp_path)


def test_a_launch_whose_store_does_not_answer_starts_nothing(tmp_path):
    from sweeps.config import compose
    from sweeps.run import sweep

    config = compose.load(["tracking.uri=http://127.0.0.1:9", f"storage.root={tmp_path / 'runs'}"])
    with pytest.raises(ConfigError, match=r"tracking.uri=http://127.0.0.1:9 does not answer"):
        sweep.launch(config, "s", ["sweeps", "launch"])
    assert not (tmp_path / "runs").exists()
