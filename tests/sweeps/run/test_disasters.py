"""Nothing is lost: full disks and lost nodes, each with a driver in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweeps.kept import events
from sweeps.kept.trials import TrialState
from sweeps.records import disk

pytestmark = [pytest.mark.slow, pytest.mark.faults]

_HEAD = """
import json, os, signal, sys, threading, time
from pathlib import Path

from faulty import FaultyTrial, SlowFaultyTrial
from local_sweeps import launch, make_config

from sweeps.kept import events
from sweeps.records import projection
from sweeps.run import sweep
from sweeps.run.driver import DiskFull

root = Path(sys.argv[1])


def wait_until(holds):
    while not holds():
        time.sleep(0.02)


def attempts(trial):
    return sum(event["kind"] == "started" for event in events.read_events(root / "s" / str(trial)))


def ended():
    return sorted(path.parent.name for path in root.glob("s/*/outcome.json"))
"""

# The disk is a small one in memory, filled to the last byte when two trials have ended.
_FULL = """
projection._FLUSH_SECONDS = 3  # nor can MLflow's records be written


def fill():
    wait_until(lambda: len(ended()) >= 2)
    with (root / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


filling = threading.Thread(target=fill, daemon=True)
filling.start()
try:
    status = launch(make_config(root, "sweep.name=s", "sweep.num_trials=6"), FaultyTrial).status
except DiskFull as error:
    status = str(error)
filling.join()
before = ended()
(root / "ballast").unlink()
resumed = sweep.resume(root, "s", FaultyTrial)
states = [row.state.value for row in resumed.study.rows()]
steps = [[report["step"] for report in events.reports(root / "s" / str(n))] for n in range(6)]
found = {"status": status, "before": before, "states": states, "steps": steps}
print("FOUND " + json.dumps({**found, "attempts": [attempts(n) for n in range(6)]}))
"""

# Three nodes; trials fit on two of them, and one of those two is lost while it trains trial 0.
_NODES = """
import psutil
from ray.cluster_utils import Cluster

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
for _ in range(2):
    nodes.add_node(num_cpus=1)
nodes.wait_for_nodes()


def lose_a_node():
    wait_until(lambda: (root / "s" / "0").exists() and len(events.reports(root / "s" / "0")) >= 2)
    pid = next(e["pid"] for e in events.read_events(root / "s" / "0") if e["kind"] == "started")
    raylet = next(p for p in psutil.Process(pid).parents() if p.name() == "raylet")
    os.kill(raylet.pid, signal.SIGKILL)


threading.Thread(target=lose_a_node, daemon=True).start()
words = ("cluster.cpus_per_trial=1", f"cluster.address={nodes.address}")
result = launch(make_config(root, "sweep.name=s", "sweep.num_trials=3", *words), SlowFaultyTrial)
print("FOUND " + json.dumps({"status": result.status, "attempts": [attempts(n) for n in range(3)]}))
nodes.shutdown()
"""


def run(body: str, root: Path, python_path: str, *before: str) -> dict[str, Any]:
    """Run a driver, and read what it found."""
    script = root.parent / "driver.py"
    script.write_text(_HEAD + body)
    quick = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
    done = subprocess.run(
        [*before, sys.executable, str(script), str(root)],
        env={**os.environ, **quick, "PYTHONPATH": python_path},
        cwd=root.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert told, done.stdout + done.stderr
    return dict(json.loads(told[0].removeprefix("FOUND ")))


def may_mount() -> bool:
    """Whether this process may give another one a disk of its own."""
    words = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not may_mount(), reason="mounting a small disk needs Linux and root")
def test_a_full_disk_stops_a_sweep_and_with_room_again_it_goes_on_without_loss(tmp_path, python_path):
    root = tmp_path / "runs"
    root.mkdir()
    mount = f'mount -t tmpfs -o size=24m none {root} && exec "$0" "$@"'
    found = run(_FULL, root, python_path, "unshare", "--mount", "sh", "-c", mount)
    assert found["status"] == "failed" or found["status"].startswith("nothing more can be written")
    assert 2 <= len(found["before"]) < 6
    assert found["states"] == ["complete"] * 6
    assert found["steps"] == [[10, 20, 30, 40]] * 6
    for number in found["before"]:
        assert found["attempts"][int(number)] == 1


def test_a_trial_on_a_node_that_is_lost_continues_on_another(tmp_path, python_path):
    root = tmp_path / "runs"
    found = run(_NODES, root, python_path)
    assert found["status"] == "complete"
    rows = disk.open_study(root, "s").rows()
    assert [row.state for row in rows] == [TrialState.complete] * 3
    assert found["attempts"][0] == 2
    assert [report["step"] for report in events.reports(root / "s" / "0")] == [10, 20, 30, 40]
    attempts = [e["attempt"] for e in events.read_events(root / "s" / "0") if e["kind"] == "report"]
    assert attempts[:2] == [1, 1]  # and none of those epochs was trained twice
