"""How many trials fit on the machines of a cluster, and whether one does at all."""

from __future__ import annotations

import math
from typing import Any

from sweeps.config.errors import ConfigError
from sweeps.config.settings import ClusterConfig


def check(config: ClusterConfig) -> None:
    """Raise ConfigError where not even one trial fits."""
    if num_slots(config) < 1:
        cpus, gpus = _resources()
        raise ConfigError(
            f"The cluster cannot meet one trial's demand: cluster.cpus_per_trial={config.cpus_per_trial:g}, "
            f"cluster.gpus_per_trial={config.gpus_per_trial:g}, but no node has more than {cpus:g} CPUs "
            f"and {gpus:g} GPUs. {_fix(config, cpus, gpus)}"
        )


def _fix(config: ClusterConfig, cpus: float, gpus: float) -> str:
    if config.gpus_per_trial > gpus:
        return f"Set cluster.gpus_per_trial={gpus:g}, or connect to GPUs: cluster.address=HOST:6379."
    return f"Set cluster.cpus_per_trial={cpus:g}."


def num_slots(config: ClusterConfig) -> int:
    """Trials that can run at once: what fits, and at most `cluster.num_concurrent`."""
    fitting = sum(_fitting(config, resources) for resources in _nodes())
    return fitting if config.num_concurrent is None else min(fitting, config.num_concurrent)


def num_local_slots(config: ClusterConfig, num_cpus: float, num_gpus: float) -> int:
    """Trials that could run at once on one machine like this, without asking Ray."""
    fitting = _fitting(config, {"CPU": num_cpus, "GPU": num_gpus})
    return fitting if config.num_concurrent is None else min(fitting, config.num_concurrent)


def _fitting(config: ClusterConfig, resources: dict[str, float]) -> int:
    limits = []
    if config.cpus_per_trial:
        limits.append(resources.get("CPU", 0) / config.cpus_per_trial)
    if config.gpus_per_trial:
        # A fraction of a GPU is shared, never put together from two.
        whole = resources.get("GPU", 0)
        per_gpu = math.floor(1 / config.gpus_per_trial + 1e-9) if config.gpus_per_trial < 1 else 0
        limits.append(whole * per_gpu if per_gpu else whole / config.gpus_per_trial)
    return math.floor(min(limits) + 1e-9) if limits else 1


def _resources() -> tuple[float, float]:
    nodes = _nodes()
    return max(r.get("CPU", 0) for r in nodes), max(r.get("GPU", 0) for r in nodes)


def _nodes() -> list[dict[str, float]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]
