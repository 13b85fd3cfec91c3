"""How many trials fit, and what is said when none does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sweeps.cluster import connection, slots
from sweeps.config.errors import ConfigError
from sweeps.config.settings import ClusterConfig


@pytest.fixture
def nodes(monkeypatch):
    monkeypatch.setattr(slots, "_nodes", lambda: [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0}])


@pytest.mark.parametrize(
    ("settings", "fitting"),
    [
        ({}, 6),
        ({"cpus_per_trial": 2.0}, 3),
        ({"cpus_per_trial": 3.0}, 1),
        ({"cpus_per_trial": 0.5}, 12),
        ({"num_concurrent": 4}, 4),
        ({"gpus_per_trial": 1.0}, 1),
        ({"gpus_per_trial": 0.3}, 3),
        ({"gpus_per_trial": 0.1, "cpus_per_trial": 1.0}, 4),
    ],
)
def test_slots_are_what_each_node_fits(nodes, settings, fitting):
    assert slots.num_slots(ClusterConfig(**settings)) == fitting


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"gpus_per_trial": 2.0}, "Set cluster.gpus_per_trial=1"),
        ({"cpus_per_trial": 8.0}, "Set cluster.cpus_per_trial=4"),
    ],
)
def test_a_demand_that_no_node_meets_is_an_error_with_the_fix(nodes, settings, fix):
    key, value = next(iter(settings.items()))
    with pytest.raises(ConfigError, match=rf"cluster.{key}={value:g}.*4 CPUs and 1 GPUs.*{fix}"):
        slots.check(ClusterConfig(**settings))


@pytest.mark.slow
def test_a_ray_of_our_own_starts_where_temporary_files_go_to_a_long_path(tmp_path):
    long = tmp_path / ("l" * 60)
    long.mkdir()
    code = (
        "from sweeps.cluster.connection import connected\n"
        "from sweeps.config.settings import ClusterConfig\n"
        "with connected(ClusterConfig()):\n"
        "    import ray\n"
        "    print(ray.get(ray.remote(lambda: 42).remote()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "TMPDIR": str(long)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def test_folders_of_processes_that_are_gone_are_removed_and_those_of_others_stay(tmp_path, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folders = {name: tmp_path / f"sweeps-ray-{name}-x" for name in (str(gone.pid), str(os.getpid()), "notes")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setattr(connection, "_short_folder", lambda: tmp_path)
    made = connection._own_folder()
    assert not folders[str(gone.pid)].exists()
    assert folders[str(os.getpid())].exists()
    assert folders["notes"].exists()
    assert made.startswith(f"{tmp_path}/sweeps-ray-{os.getpid()}-")
