"""The database that holds the studies of a storage root."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import RDBStorage

from sweeps.kept.locks import alone_at


def study_url(root: Path) -> str:
    """Where the studies of a storage root are kept."""
    return f"sqlite:///{root.absolute() / 'optuna.db'}"


def open_storage(url: str) -> RDBStorage:
    """Connect, and create the tables of a fresh database."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not url.startswith("sqlite"):
        return RDBStorage(url)
    with alone_at(url):  # of several that open a fresh root, one creates its tables
        # Readers (`sweeps list`) and the driver share one file: wait for its lock instead of failing.
        storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
        # Commit by appending to a log: a suggestion is a dozen commits, each of which would rewrite pages.
        # What was committed survives the death of every process. The file remembers it.
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    return storage
