"""What every test shares: one thread for torch, real data only where the caller points to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("growsweep", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("growsweep")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a Ray run in one process where several run tests."""
    for item in items:
        if "ray_here" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with FashionMNIST that GROWSWEEP_DATA names; the test is skipped without it."""
    root = os.environ.get("GROWSWEEP_DATA")
    if root is None or not (Path(root) / "FashionMNIST").is_dir():
        pytest.skip("set GROWSWEEP_DATA to a folder that holds FashionMNIST to run tests on real images")
    return Path(root)
