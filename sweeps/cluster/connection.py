"""Connect to Ray or start it here, quietly.

A local Ray lives in a temporary folder of its own, so the leftovers of a killed driver are never mistaken for
a cluster that runs.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from sweeps.cluster.slots import check
from sweeps.config.errors import ConfigError
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


# Ray adds session_DATE_PID/sockets/plasma_store to our folder, 75 characters with its name.
_LONGEST_TMPDIR = 24


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
    where = _short_folder()
    for old in where.glob("sweeps-ray-*"):
        owner = old.name.split("-")[2]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(old, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"sweeps-ray-{os.getpid()}-", dir=where)


def _short_folder() -> Path:
    """Where temporary files go, or /tmp where that path is long, as Slurm and macOS have it.

    Ray's sockets lie below it, and the path of a socket ends at 107 bytes (104 on macOS).
    """
    usual = Path(tempfile.gettempdir())
    return usual if len(str(usual)) <= _LONGEST_TMPDIR else Path("/tmp")  # noqa: S108


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


def quiet_driver() -> None:
    """Keep Ray's chatter off the terminal; what fails is raised, not logged."""
    from ray._private import worker

    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A paragraph for every worker that dies, with no setting to turn it off; `sweeps.run.attempts` says it.
    worker.print_to_stdstream = lambda *_, **__: None
