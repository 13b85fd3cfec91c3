"""One process at a time does what several would undo: creating the tables of a fresh database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

_SECONDS = 120.0  # a fresh MLflow database takes some, and others may stand in line


@contextmanager
def alone_at(url: str) -> Iterator[None]:
    """While the block runs, no other process of any machine that shares the folder opens this database file.

    Args:
        url: of a database; what is no file (a server, memory) looks after itself.

    Raises:
        filelock.Timeout: another process holds it for minutes.
    """
    path = urlsplit(url).path.removeprefix("/")
    if not url.startswith("sqlite") or not path or not Path(path).parent.is_dir():
        yield
        return
    with FileLock(f"{path}.lock", timeout=_SECONDS):
        yield
