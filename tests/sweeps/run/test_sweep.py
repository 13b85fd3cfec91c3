"""Whole sweeps on a local Ray, most of them with a training that costs nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from learner import LearnerTrial, read_state
from local_sweeps import launch, make_config, read_runs
from stand_in import SlowStandInTrial, StandInTrial, accuracy_of

from sweeps.config import compose
from sweeps.config.errors import ConfigError
from sweeps.kept import events
from sweeps.kept.trials import TrialState
from sweeps.records import disk, tracking_store
from sweeps.run import sweep
from sweeps.run.result import Result

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """One storage root, so that MLflow's schema is made once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(ray_here, root) -> Result:
    return launch(make_config(root, "sweep.name=whole", "sweep.num_trials=8"))


def test_a_sweep_runs_its_budget(whole):
    rows = whole.study.rows()
    assert [row.state for row in rows] == [TrialState.complete] * 8
    assert not whole.interrupted
    for row in rows:
        assert row.value == pytest.approx(accuracy_of(row.params["optimizer.lr"]) * (1 - 0.5**4))
        assert len(events.reports(whole.folder / str(row.number))) == 4


def test_study_mlflow_and_best_file_agree(whole, root):
    rows = whole.study.rows()
    runs = read_runs(root, "whole")
    assert set(runs) == {"whole", *(f"whole/{n}" for n in range(8))}
    for row in rows:
        run = runs[f"whole/{row.number}"]
        assert run.data.metrics["val/accuracy"] == row.value
        assert float(run.data.params["optimizer.lr"]) == row.params["optimizer.lr"]
        assert run.data.tags["mlflow.parentRunId"] == runs["whole"].info.run_id
    best = compose.read_best(str(whole.best))
    assert best.trial == whole.study.rank()[0].config
    assert runs["whole"].data.metrics["best/val/accuracy"] == max(row.value for row in rows)


def test_workers_are_used_again(whole):
    started = [next(events.read_events(whole.folder / str(n))) for n in range(8)]
    assert len({event["pid"] for event in started}) <= 2  # slots


def test_resuming_a_sweep_that_is_over_runs_nothing(whole, root, capsys):
    ended = [row.ended for row in whole.study.rows()]
    again = sweep.resume(root, "whole")
    assert [row.ended for row in again.study.rows()] == ended
    assert not again.interrupted
    assert again.best == whole.best
    assert "nothing is left to run (8 of 8 trials)" in capsys.readouterr().out


def test_a_name_that_is_taken_is_refused_and_nothing_changes(whole, root):
    before = sorted(path.name for path in root.iterdir())
    with pytest.raises(ConfigError, match=r"sweep.name=whole.*sweeps resume whole"):
        launch(make_config(root, "sweep.name=whole"))
    assert sorted(path.name for path in root.iterdir()) == before


def test_a_plan_without_a_study_is_resumed_from_its_beginning(whole, tmp_path):
    (tmp_path / "whole").mkdir()
    shutil.copy(whole.folder / "plan.yaml", tmp_path / "whole")
    again = sweep.resume(tmp_path, "whole", StandInTrial)
    assert [row.state for row in again.study.rows()] == [TrialState.complete] * 8


@pytest.mark.usefixtures("ray_here")
def test_a_failing_trial_is_recorded_with_its_reason_and_the_sweep_goes_on(root):
    config = make_config(root, "sweep.name=fails", "sweep.num_trials=8", low=0.5, high=2.0)
    result = launch(config)
    rows = result.study.rows()
    failed = [row for row in rows if row.params["optimizer.lr"] > 0.9]
    assert 0 < len(failed) < 8
    for row in rows:
        assert (row.state is TrialState.failed) == (row in failed)
    assert {row.reason for row in failed} == {"the training loss became nan in epoch 2"}
    run = read_runs(root, "fails")[f"fails/{failed[0].number}"]
    assert run.info.status == "FAILED"
    assert run.data.tags["growsweep.reason"] == "the training loss became nan in epoch 2"


@pytest.mark.parametrize(
    ("name", "fidelity"),
    [("asha", "epoch"), ("asha", "train_flops"), ("hyperband", "train_flops"), ("median", "epoch")],
)
@pytest.mark.usefixtures("ray_here")
def test_a_scheduler_stops_weak_trials_and_never_a_finished_one(root, name, fidelity):
    words = [f"scheduler.name={name}", f"scheduler.fidelity={fidelity}", "scheduler.grace=0.25"]
    words += ["scheduler.edit_grace=0.0", "scheduler.num_brackets=2"]
    words += ["scheduler.reduction_factor=2", f"sweep.name={name}-{fidelity}", "sweep.num_trials=10"]
    result = launch(make_config(root, *words))
    rows = result.study.rows()
    stopped = [row for row in rows if row.state is TrialState.stopped]
    complete = [row for row in rows if row.state is TrialState.complete]
    assert stopped
    assert complete
    assert len(stopped) + len(complete) == 10
    assert all(row.outcome.epoch < 4 for row in stopped)
    assert all(row.outcome.epoch == 4 for row in complete)
    assert all(row.reason.startswith("behind other trials at ") for row in stopped)
    best = max(rows, key=lambda row: accuracy_of(row.params["optimizer.lr"]))
    assert best.state is TrialState.complete


@pytest.mark.usefixtures("ray_here")
def test_a_population_larger_than_the_slots_trains_to_its_end_and_members_take_over(root):
    words = ["scheduler.name=pbt", "scheduler.fidelity=epoch", "scheduler.interval=0.25"]
    words += ["scheduler.edit_grace=0.0", "scheduler.quantile=0.25"]
    config = make_config(root, *words, "sweep.name=population", "sweep.num_trials=4", low=1e-3)
    result = launch(config, LearnerTrial)
    rows = result.study.rows()
    assert [row.state for row in rows] == [TrialState.complete] * 4
    changed = [row for row in rows if row.changes]
    assert changed
    for row in changed:
        rates = read_state(result.folder / str(row.number))["rates"]
        last = row.changes[-1]
        assert len(rates) == 4
        assert rates[-1] == row.params["optimizer.lr"]
        if not result.study.row(last.donor).changes:
            donor = read_state(result.folder / str(last.donor))["rates"]
            assert rates[: last.step // 10] == donor[: last.step // 10]
    run = read_runs(root, "population")[f"population/{changed[0].number}"]
    assert run.data.tags["growsweep.continued"].startswith("continued #")
    assert len(read_runs(root, "population")) == 5


@pytest.mark.usefixtures("ray_here")
def test_one_ctrl_c_stops_cleanly_and_resume_runs_exactly_the_rest(root, capsys):
    config = make_config(root, "sweep.name=stop", "sweep.num_trials=7")
    folder = root / "stop"

    def interrupt_in_the_middle() -> None:
        while len(list(folder.glob("*/outcome.json"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_in_the_middle, daemon=True).start()
    first = launch(config, SlowStandInTrial)
    assert first.interrupted
    running = [row for row in first.study.rows() if row.state is TrialState.running]
    assert 0 < len(running) <= 2
    assert "stopping" in capsys.readouterr().out
    second = sweep.resume(root, "stop", SlowStandInTrial)
    rows = second.study.rows()
    assert not second.interrupted
    assert [row.state for row in rows] == [TrialState.complete] * 7
    assert len({row.params["optimizer.lr"] for row in rows}) == 7
    assert len(read_runs(root, "stop")) == 8
    for row in running:
        assert len(events.reports(folder / str(row.number))) == 4
        assert rows[row.number].params == row.params


@pytest.mark.usefixtures("ray_here")
def test_a_demand_the_cluster_cannot_meet_starts_nothing(root):
    config = make_config(root, "sweep.name=greedy", "cluster.gpus_per_trial=64")
    with pytest.raises(ConfigError, match=r"cluster.gpus_per_trial=64"):
        launch(config)
    assert not (root / "greedy").exists()


def test_an_unknown_sweep_lists_the_known(root):
    with pytest.raises(ConfigError, match=r"No sweep 'nope' under .*Known sweeps:"):
        sweep.resume(root, "nope")


def test_four_real_trials_are_read_back_from_mlflow_and_from_the_study(tmp_path):
    command = [sys.executable, "-m", "sweeps"]
    words = ["data=digits", "data.num_train=300", "training=fast", "scheduler=none"]
    run = subprocess.run(
        [*command, "launch", *words, "sweep.num_trials=4", "sweep.name=real"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert "4 trials: 4 complete" in run.stdout
    root = tmp_path / "runs"
    study = disk.open_study(root, "real")
    runs = read_runs(root, "real")
    assert len(runs) == 5
    for row in study.rows():
        recorded = runs[f"real/{row.number}"]
        assert recorded.data.metrics["val/accuracy"] == row.value
        assert recorded.data.metrics["test/accuracy"] == row.outcome.metrics["test/accuracy"]
        assert recorded.data.params["optimizer.lr"] == str(row.params["optimizer.lr"])
    retrain = subprocess.run(
        [*command, "train", "best=runs/real/best.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert retrain.returncode == 0, retrain.stdout + retrain.stderr
    (line,) = [line for line in retrain.stdout.splitlines() if line.split()[:1] == ["test/accuracy"]]
    assert line.split()[-1] == "+0"  # the same configuration on the same device gives the same result


_DRIVER = """
from pathlib import Path
from stand_in import SlowStandInTrial
from local_sweeps import launch, make_config
from sweeps.run import sweep
root = Path({root!r})
if (root / "killed" / "plan.yaml").exists():
    sweep.resume(root, "killed", SlowStandInTrial)
else:
    launch(make_config(root, "sweep.name=killed", "sweep.num_trials=12"), SlowStandInTrial)
"""


@pytest.mark.faults
def test_a_driver_killed_three_times_still_ends_with_each_trial_once(tmp_path, python_path):
    script = tmp_path / "driver.py"
    script.write_text(_DRIVER.format(root=str(tmp_path)))
    environment = {**os.environ, "PYTHONPATH": python_path}
    killed = tmp_path / "killed"
    for num_ended in (1, 4, 7):
        driver = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.DEVNULL)
        while len(list(killed.glob("*/outcome.json"))) < num_ended:
            assert driver.poll() is None, "the driver ended by itself"
            time.sleep(0.05)
        driver.kill()
        driver.wait()
    ended_before = {p.parent.name: p.read_text() for p in killed.glob("*/outcome.json")}
    subprocess.run([sys.executable, str(script)], env=environment, check=True, timeout=120)
    rows = disk.open_study(tmp_path, "killed").rows()
    assert [row.state for row in rows] == [TrialState.complete] * 12
    assert len({row.params["optimizer.lr"] for row in rows}) == 12
    for number, outcome in ended_before.items():
        assert (killed / number / "outcome.json").read_text() == outcome
    runs = read_runs(tmp_path, "killed")
    assert len(runs) == 13
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_store.default_uri(tmp_path))
    for identity, run in runs.items():
        if identity != "killed":
            history = client.get_metric_history(run.info.run_id, "val/accuracy")
            assert [point.step for point in history] == [10, 20, 30, 40]


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.usefixtures("ray_here")
def test_what_a_dead_driver_told_the_study_but_not_the_folder_is_caught_up(root, more):
    result = launch(make_config(root, f"sweep.name=caught-{more}", "sweep.num_trials=3"))
    (result.folder / "1" / "outcome.json").unlink()
    if more:
        sweep.extend(root, f"caught-{more}", {"num_trials": "4"})
    sweep.resume(root, f"caught-{more}", StandInTrial)
    assert events.read_json(result.folder / "1" / "outcome.json")["state"] == "complete"
    assert len(read_runs(root, f"caught-{more}")) == (5 if more else 4)
