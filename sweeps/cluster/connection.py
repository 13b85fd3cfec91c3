"""Connect to Ray or start it here, quietly, and say early what does not fit.

A local Ray lives in a temporary folder of its own, so the leftovers of a killed driver are never mistaken for
a cluster that runs.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeps.config.schema import ConfigError
from sweeps.config.settings import ClusterConfig

# Tune's own loggers, folders and state are not ours: records are made from the run folder.
_QUIET = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_MAX_PENDING_TRIALS_PG": "64",  # the searcher keeps to the slots; start workers side by side
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
}


@contextmanager
def connected(config: ClusterConfig) -> Iterator[None]:
    """A Ray to run on: the one at `cluster.address`, or a local one that ends with the block.

    Raises:
        ConfigError: the address does not answer, or a trial needs more than the cluster has.
    """
    import ray

    os.environ.update(_QUIET)
    if ray.is_initialized():  # a caller's Ray stays the caller's
        check(config)
        yield
        return
    temporary = None if config.address else _own_folder()
    try:
        _connect(config, temporary)
        check(config)
        yield
    finally:
        ray.shutdown()
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _own_folder() -> str:
    """A fresh temporary folder named after this process; those of processes that are gone are removed."""
    for old in Path(tempfile.gettempdir()).glob("sweeps-ray-*"):
        owner = old.name.split("-")[2]
        if not Path(f"/proc/{owner}").exists():
            shutil.rmtree(old, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"sweeps-ray-{os.getpid()}-")


def _connect(config: ClusterConfig, temporary: str | None) -> None:
    import ray

    quiet_driver()
    if temporary:
        ray.init(
            "local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            _temp_dir=temporary,
        )
        return
    try:
        ray.init(
            config.address,
            runtime_env={"env_vars": _QUIET},
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"cluster.address={config.address}: no Ray cluster answers there ({error}). Start one with "
            f"`ray start --head`, or leave cluster.address=null to use this machine."
        ) from None


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


def quiet_driver() -> None:
    """Keep Ray's chatter off the terminal; what fails is raised, not logged."""
    from ray._private import worker

    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A paragraph for every worker that dies, with no setting to turn it off; `sweeps.run.attempts` says it.
    worker.print_to_stdstream = lambda *_, **__: None


def scratch(folder: Path) -> Path:
    """Where Tune may keep its disposable state: beside the sweep, so that every node sees it."""
    path = folder / ".tune"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
