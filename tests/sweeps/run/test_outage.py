"""MLflow down while a sweep starts and in its middle: a real server that is killed and started again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_sweeps import launch, make_config
from stand_in import SlowStandInTrial

from sweeps.config.errors import ConfigError
from sweeps.records import tracking_store


class Server:
    """An MLflow server on this machine, over a database that outlives it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._store = f"sqlite:///{folder / 'server.db'}"
        self._artifacts = (folder / "artifacts").as_uri()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        where = ["--backend-store-uri", self._store, "--artifacts-destination", self._artifacts]
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *where, *address],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def is_up(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/health", timeout=1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None


def wait(until: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.kill()


def num_ended(folder: Path) -> int:
    return len(list(folder.glob("*/outcome.json")))


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.usefixtures("ray_here")
def test_an_mlflow_that_is_down_at_the_start_and_dies_in_the_middle_gets_every_record_once(server, tmp_path):
    from mlflow.tracking import MlflowClient

    words = [
        f"tracking.uri={server.url}",
        "tracking.required=false",
        "sweep.name=outage",
        "sweep.num_trials=12",
    ]
    folder = tmp_path / "outage"

    def come_and_go() -> None:
        wait(lambda: num_ended(folder) >= 2)  # trials end though nothing was ever sent
        server.start()
        wait(lambda: server.is_up() and num_ended(folder) >= 5)
        server.kill()
        wait(lambda: num_ended(folder) >= 9)
        server.start()

    weather = threading.Thread(target=come_and_go, daemon=True)
    weather.start()
    result = launch(make_config(tmp_path, *words), SlowStandInTrial)
    weather.join(timeout=60)
    assert result.complaint is None
    assert not result.interrupted
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name("growsweep")
    runs = client.search_runs([experiment.experiment_id], "tags.`growsweep.sweep` = 'outage'")
    identities = sorted(run.data.tags["growsweep.id"] for run in runs)
    assert identities == sorted(["outage", *(f"outage/{n}" for n in range(12))])
    for run in runs:
        assert run.info.status == "FINISHED"
        if run.data.tags["growsweep.id"] != "outage":
            history = client.get_metric_history(run.info.run_id, "val/accuracy")
            assert [point.step for point in history] == [10, 20, 30, 40]


def test_a_store_that_is_required_and_does_not_answer_starts_nothing(server, tmp_path):
    with pytest.raises(ConfigError, match=r"does not answer.*tracking\.required=false"):
        launch(make_config(tmp_path, f"tracking.uri={server.url}", "sweep.name=never"))
    assert not (tmp_path / "never").exists()


def test_an_awaited_store_is_opened_once_it_answers(tmp_path, monkeypatch):
    uri = tracking_store.default_uri(tmp_path)
    opened = []

    def open_tracking(uri: str, experiment: str, root: Path) -> tracking_store.Tracking:
        opened.append(uri)
        if len(opened) == 1:
            raise tracking_store.Unreachable("not yet")
        return tracking_store.Tracking(uri=uri, experiment_id="7")

    monkeypatch.setattr(tracking_store, "open_tracking", open_tracking)
    store = tracking_store.open_store(uri, "growsweep", tmp_path, required=False)
    assert isinstance(store, tracking_store.Awaited)
    assert [store.experiment_id, store.experiment_id] == ["7", "7"]
    assert len(opened) == 2


def test_a_required_store_that_does_not_answer_is_an_error(tmp_path, monkeypatch):
    def open_tracking(uri: str, experiment: str, root: Path) -> tracking_store.Tracking:
        raise tracking_store.Unreachable("not yet")

    monkeypatch.setattr(tracking_store, "open_tracking", open_tracking)
    with pytest.raises(tracking_store.Unreachable):
        tracking_store.open_store("sqlite:///x.db", "growsweep", tmp_path, required=True)
