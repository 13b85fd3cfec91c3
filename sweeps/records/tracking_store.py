"""Where records go: reach an MLflow store, or say within seconds why not."""

from __future__ import annotations

import logging
import os
import socket
import urllib.error
import urllib.parse
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.config.errors import ConfigError
from sweeps.kept.locks import alone_at

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_CONNECT_SECONDS = 3.0
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class Unreachable(ConfigError):
    """No store answers there, now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracking:
    """An MLflow store that answered."""

    uri: str
    experiment_id: str


class Awaited:
    """A store that need not answer yet: it is opened when its experiment is first asked for.

    Example:
        >>> Projector(Awaited(uri, "growsweep", root), folder, plan)  # tries until it answers
    """

    def __init__(self, uri: str, experiment: str, root: Path) -> None:
        self.uri = uri
        self._experiment = experiment
        self._root = root
        self._opened: Tracking | None = None

    @property
    def experiment_id(self) -> str:
        """Of the MLflow experiment; ConfigError while the store does not answer."""
        if self._opened is None:
            self._opened = open_tracking(self.uri, self._experiment, self._root)
        return self._opened.experiment_id


def default_uri(root: Path) -> str:
    """The store of a storage root whose configuration names none."""
    return f"sqlite:///{root.absolute() / 'mlflow.db'}"


def open_store(uri: str, experiment: str, root: Path, required: bool) -> Tracking | Awaited:
    """The store, or where it does not answer and need not, what waits for it.

    Raises:
        ConfigError: as `open_tracking`; `Unreachable` only where the store is required.
    """
    try:
        return open_tracking(uri, experiment, root)
    except Unreachable:
        if required:
            raise
        return Awaited(uri, experiment, root)


def open_tracking(uri: str, experiment: str, root: Path) -> Tracking:
    """Reach the store, create its schema and the experiment.

    Raises:
        Unreachable: nothing answers at `uri`.
        ConfigError: it is the deprecated file store.
    """
    probe(uri)
    try:
        connected = client(uri)
        with alone_at(uri):
            found = connected.get_experiment_by_name(experiment)
            if found is not None:
                return Tracking(uri=uri, experiment_id=found.experiment_id)
            # A server keeps artifacts where it was told to; a database of ours keeps them beside itself.
            location = None if _is_server(uri) else (root.absolute() / "mlartifacts").as_uri()
            created = connected.create_experiment(experiment, artifact_location=location)
    except Exception as error:  # sqlalchemy's and requests' exceptions are not ours to name
        raise _unreachable(uri, str(error).splitlines()[0]) from error
    return Tracking(uri=uri, experiment_id=created)


def probe(uri: str) -> None:
    """Raise Unreachable within seconds where nothing answers at `uri`, ConfigError where it is no store that
    we take; imports no MLflow.
    """
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme in ("", "file"):
        raise ConfigError(
            f"tracking.uri={uri} is a folder, MLflow's deprecated file store. "
            f"Use a database (sqlite:///PATH/mlflow.db), a server (http://HOST:5000), or leave it null."
        )
    try:
        if _is_server(uri):
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_CONNECT_SECONDS).close()  # noqa: S310
        elif parts.hostname:  # MLflow itself would try a database for minutes
            port = parts.port or _PORTS.get(parts.scheme.split("+")[0], 5432)
            socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise _unreachable(uri, f"HTTP {error.code}") from None
    except (OSError, ValueError) as error:
        raise _unreachable(uri, str(getattr(error, "reason", error))) from None


def _is_server(uri: str) -> bool:
    return urllib.parse.urlsplit(uri).scheme in ("http", "https")


def _unreachable(uri: str, why: str) -> Unreachable:
    return Unreachable(
        f"tracking.uri={uri} does not answer ({why}). Start the server (`mlflow server --port 5000`), "
        f"correct the address, or leave tracking.uri=null to keep records in storage.root/mlflow.db. To "
        f"start all the same and send the records when it answers: tracking.required=false."
    )


def client(uri: str) -> MlflowClient:
    """A client that gives up on an outage within seconds."""
    # An outage shall cost seconds, not MLflow's four minutes a call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's imports and tables use what others deprecate
        from mlflow.store.tracking.dbmodels import models  # noqa: F401
        from mlflow.tracking import MlflowClient
        from sqlalchemy.orm import configure_mappers

        configure_mappers()
    for name in ("mlflow", "alembic"):  # importing MLflow sets its loggers up
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised
    with alone_at(uri):  # of several that open a fresh root, one creates its tables
        return MlflowClient(tracking_uri=uri)


def delete_runs(uri: str, experiment: str, sweep: str) -> int:
    """Mark every run of a sweep as deleted; `mlflow gc` removes them for good.

    Returns:
        How many runs were marked.

    Raises:
        Unreachable: nothing answers at `uri`.
    """
    probe(uri)
    connected = client(uri)
    found = connected.get_experiment_by_name(experiment)
    num = 0
    while found is not None:
        query = f"tags.`growsweep.sweep` = '{sweep}'"
        runs = connected.search_runs([found.experiment_id], query, max_results=1000)
        if not runs:
            break
        for run in runs:
            connected.delete_run(run.info.run_id)
        num += len(runs)
    return num


def experiment_url(base: str, tracking: Tracking, sweep: str) -> str:
    """The page of an MLflow server that shows a sweep's runs and no others."""
    query = urllib.parse.quote(f"tags.`growsweep.sweep` = '{sweep}'")
    return f"{base}/#/experiments/{tracking.experiment_id}/runs?searchFilter={query}"
