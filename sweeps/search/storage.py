"""The database that holds the studies of a storage root."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import event


def study_url(root: Path) -> str:
    """Where the studies of a storage root are kept."""
    return f"sqlite:///{root.absolute() / 'optuna.db'}"


def open_storage(url: str) -> RDBStorage:
    """Connect, and create the tables of a fresh database."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not url.startswith("sqlite"):
        return RDBStorage(url)
    # Readers (`sweeps list`) and the driver share one file: wait for its lock instead of failing.
    storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
    event.listen(storage.engine, "connect", _append)
    storage.engine.dispose()  # connections made while the tables were checked lack what follows
    return storage


def _append(connection: sqlite3.Connection, record: object) -> None:
    """Commit by appending to a log: a suggestion is a dozen commits, each of which would rewrite pages.

    What was committed survives the death of every process, and readers never wait for the writer.
    """
    connection.execute("PRAGMA journal_mode=WAL")
