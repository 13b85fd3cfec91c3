"""Small sweeps on a local Ray, and what MLflow has of them."""

from __future__ import annotations

import functools
from pathlib import Path

import yaml
from stand_in import StandInTrial

from sweeps.config import compose
from sweeps.config.settings import SweepConfig, set_key
from sweeps.records import tracking_store
from sweeps.run import sweep
from sweeps.run.result import Result


@functools.cache
def base() -> SweepConfig:
    """Composing takes a second, so it is done once."""
    return compose.load(["model=mlp", "space=none", "scheduler=none", "training.num_epochs=4"])


def make_config(root: Path, *words: str, low: float = 1e-2, high: float = 0.8) -> SweepConfig:
    values = base().to_dict()
    values["space"] = {"optimizer.lr": {"float": [low, high], "log": True}}
    slots = ("cluster.cpus_per_trial=0.5", "cluster.num_concurrent=2")
    for word in (f"storage.root={root}", *slots, *words):
        key, value = word.split("=")
        set_key(values, key, yaml.safe_load(value))
    return SweepConfig.from_dict(values)


def launch(config: SweepConfig, trainable=StandInTrial) -> Result:
    return sweep.launch(config, sweep.new_name(config), ["sweeps", "launch"], trainable)


def read_runs(root: Path, name: str) -> dict[str, object]:
    from mlflow.tracking import MlflowClient

    tracking = tracking_store.open_tracking(tracking_store.default_uri(root), "growsweep", root)
    client = MlflowClient(tracking.uri)
    found = client.search_runs([tracking.experiment_id], f"tags.`growsweep.sweep` = '{name}'")
    return {run.data.tags["growsweep.id"]: run for run in found}
