"""The projection to MLflow: everything once, whatever is projected how often."""

from __future__ import annotations

import socket
import warnings
from pathlib import Path

import pytest
import yaml
from stand_in import trial_config

from sweeps import events, records, stores
from sweeps.config import ConfigError
from sweeps.events import EventWriter
from sweeps.records import Projector
from sweeps.stores import Tracking

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlflow.tracking import MlflowClient


@pytest.fixture(scope="module")
def tracking(tmp_path_factory) -> Tracking:
    root = tmp_path_factory.mktemp("store")
    return stores.open_tracking(stores.default_uri(root), "growsweep", root)


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


def test_an_outage_delays_records_and_loses_none(tracking, folder, monkeypatch):
    monkeypatch.setattr(records, "_POLL_SECONDS", 0.05)
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
    text = records.readable(report(10)["edits"])
    assert text == "epoch 1, step 10: grow conv1 by 2: most to gain\n"
    assert records.readable([]) == "no edits\n"


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_does_not_answer_is_named_with_the_fix(scheme, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"{scheme}://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ConfigError, match=rf"tracking.uri={uri} does not answer.*tracking.uri=null"):
        stores.open_tracking(uri, "growsweep", tmp_path)


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns"])
def test_the_file_store_is_refused(uri, tmp_path):
    with pytest.raises(ConfigError, match=rf"tracking.uri={uri} is a folder.*sqlite:///PATH"):
        stores.open_tracking(uri, "growsweep", tmp_path)


def test_a_database_that_cannot_be_opened_is_named(tmp_path):
    uri = f"sqlite:///{tmp_path / 'missing' / 'mlflow.db'}"
    (tmp_path / "missing").touch()
    with pytest.raises(ConfigError, match=r"tracking.uri=sqlite.*does not answer"):
        stores.open_tracking(uri, "growsweep", tmp_path)


def test_a_launch_whose_store_does_not_answer_starts_nothing(tmp_path):
    from sweeps import compose, sweep

    config = compose.load(["tracking.uri=http://127.0.0.1:9", f"storage.root={tmp_path / 'runs'}"])
    with pytest.raises(ConfigError, match=r"tracking.uri=http://127.0.0.1:9 does not answer"):
        sweep.launch(config, "s", ["sweeps", "launch"])
    assert not (tmp_path / "runs").exists()
