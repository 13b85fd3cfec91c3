"""What ends a run of a sweep, and who may run it: drivers on a local Ray, trainings that cost nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local_sweeps import launch, make_config
from stand_in import SlowStandInTrial, StandInTrial

from sweeps.config.errors import ConfigError
from sweeps.kept import events
from sweeps.kept.trials import TrialState
from sweeps.records import disk
from sweeps.run import lease, manage, sweep
from sweeps.run.lease import LeaseHeld

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.usefixtures("ray_here")
def test_a_spent_budget_ends_a_sweep_that_has_no_number_of_trials_and_extending_it_goes_on(root, tmp_path):
    told = tmp_path / "told"
    config = make_config(
        root,
        "sweep.name=flops",
        "sweep.num_trials=null",
        "sweep.max_train_flops=15.0e+6",  # a trial takes 4e6
        "storage.keep_checkpoints=1",
        f"notify.command=cat >> {told}; echo >> {told}",
    )
    first = launch(config)
    assert not first.interrupted
    assert first.ended_by.endswith("of 1.5e+07 train FLOPs")
    rows = first.study.rows()
    assert 4 <= len(rows) <= 6  # two slots: what runs when the budget is spent is finished
    assert {row.state for row in rows} == {TrialState.complete}
    assert first.study.spent.train_flops == 4e6 * len(rows)
    hours = first.study.spent.hours
    assert hours > 0
    best = first.study.best().number
    assert [path.parents[1].name for path in (root / "flops").glob("*/checkpoints/*")] == [str(best)]
    messages = [json.loads(line) for line in told.read_text().splitlines()]
    assert [m["event"] for m in messages][-1] == "finished"
    assert messages[-1]["trial"] == messages[-2]["trial"] == best
    again = sweep.resume(root, "flops", StandInTrial)
    assert [row.number for row in again.study.rows()] == [row.number for row in rows]
    sweep.extend(root, "flops", {"train_flops": "+8e6"})
    more = sweep.resume(root, "flops", StandInTrial)
    assert len(more.study.rows()) > len(rows)
    assert more.study.spent.hours > hours
    assert lease.holder(f"sqlite:///{root / 'optuna.db'}", "flops") is None
    assert "nothing is left to run" in (root / "flops" / "driver.log").read_text()


@pytest.mark.usefixtures("ray_here")
def test_a_sweep_whose_trials_fail_stops_says_why_and_can_be_resumed(root, capsys):
    config = make_config(root, "sweep.name=broken", "sweep.num_trials=40", low=1.0, high=2.0)
    result = launch(config)
    assert result.status == "failed"
    assert result.interrupted
    assert "trials failed, more than sweep.max_failed=0.5 allows" in result.failure
    assert "the training loss became nan in epoch 2" in result.failure
    failed = [row for row in result.study.rows() if row.state is TrialState.failed]
    assert 8 <= len(failed) <= 12
    assert events.read_json(root / "broken" / events.OUTCOME)["status"] == "failed"
    assert f"stopping: {result.failure}" in capsys.readouterr().out
    again = sweep.resume(root, "broken", StandInTrial)
    assert len(again.study.rows()) >= len(failed) + 8  # eight more, as the old ones do not count


def test_gpu_hours_without_gpus_are_a_wrong_request(root):
    with pytest.raises(ConfigError, match=r"sweep.max_gpu_hours=2 is never spent with .*gpus_per_trial=0"):
        launch(make_config(root, "sweep.name=no-gpu", "sweep.max_gpu_hours=2"))
    assert not (root / "no-gpu").exists()


_DRIVER = """
from pathlib import Path
from stand_in import SlowStandInTrial
from local_sweeps import launch, make_config
result = launch(make_config(Path({root!r}), "sweep.name=live", "sweep.num_trials=60"), SlowStandInTrial)
print("interrupted" if result.interrupted else "complete")
"""


@pytest.mark.faults
def test_a_second_driver_is_refused_and_stop_ends_the_first_from_another_process(tmp_path, python_path):
    environment = {**os.environ, "PYTHONPATH": python_path}
    words = [sys.executable, "-c", _DRIVER.format(root=str(tmp_path))]
    driver = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        while not list(tmp_path.glob("live/*/outcome.json")):
            assert driver.poll() is None, "the driver ended by itself"
            time.sleep(0.1)
        with pytest.raises(LeaseHeld, match=rf"live runs already: process {driver.pid} on .*stop live"):
            sweep.resume(tmp_path, "live", SlowStandInTrial)
        said = list(manage.stop(tmp_path, "live"))
        out, _ = driver.communicate(timeout=60)
    finally:
        driver.kill()
        driver.wait()
    assert f"asked process {driver.pid} on" in said[0]
    assert "live has stopped. To continue it: sweeps resume live" in said[-1]
    assert out.splitlines()[-1] == "interrupted"
    assert "stopping, as `sweeps stop` asked" in out
    rows = disk.open_study(tmp_path, "live").rows()
    assert 0 < sum(row.state is TrialState.running for row in rows) <= 2
    assert (tmp_path / "live" / "driver.log").exists()
    assert next(manage.stop(tmp_path, "live")).startswith("live is not running.")
