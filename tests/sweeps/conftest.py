"""One local Ray for every sweep of a test session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.cluster import connection
from sweeps.config.settings import ClusterConfig


@pytest.fixture(scope="session")
def python_path() -> str:
    """Where workers and drivers in other processes find the stand-in."""
    return os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="session")
def ray_here(python_path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", python_path)
        with connection.connected(ClusterConfig(cpus_per_trial=0.5)):
            yield
