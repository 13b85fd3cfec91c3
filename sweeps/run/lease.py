"""One writer per sweep: a row in the study's database, kept alive by a heartbeat.

The row is taken by compare-and-set, so of several drivers that try at once one gets it. Ages are measured by
the database's clock alone. A lease is free when its owner has not beaten for `EXPIRY_SECONDS`, or, seen from
the owner's own machine, when its process is gone.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import (
    Column,
    Double,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql import ColumnElement, literal_column

from sweeps.config.errors import ConfigError
from sweeps.search import open_storage

BEAT_SECONDS = 5.0
EXPIRY_SECONDS = 30.0  # without a beat; longer than any pause of a healthy driver
_DOUBT_SECONDS = 2 * BEAT_SECONDS  # a beat younger than this was made by a process that lives

_LEASES = Table(
    "growsweep_leases",
    MetaData(),
    Column("sweep", String(255), primary_key=True),
    Column("owner", String(36), nullable=False),  # drawn anew by every driver
    Column("host", String(255), nullable=False),
    Column("machine", String(255), nullable=False),  # where the pid means something
    Column("pid", Integer, nullable=False),
    Column("process_started", Double, nullable=False),  # tells two processes of one pid apart
    Column("acquired", Double, nullable=False),  # seconds since 1970, as all times here
    Column("beat", Double, nullable=False),
    Column("stop_asked", Double),  # when somebody asked this owner to stop
)


class LeaseHeld(ConfigError):
    """Another driver runs the sweep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who holds, or held, a lease."""

    owner: str
    host: str
    machine: str
    pid: int
    process_started: float
    acquired: float
    beat: float
    stop_asked: float | None
    age: float  # seconds since the newest beat

    @property
    def is_live(self) -> bool:
        """Whether its driver must be taken to run."""
        return self.age < EXPIRY_SECONDS and not self._is_dead

    @property
    def _is_dead(self) -> bool:
        if self.machine != _machine():
            return False
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            # Clocks are set now and then, and start times with them: a fresh beat outweighs them.
            is_other = abs(process.create_time() - self.process_started) > 2
        except psutil.NoSuchProcess:
            return True
        return is_other and self.age > _DOUBT_SECONDS

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, whose last sign of life is {self.age:.0f} s old"


class Lease:
    """The right to write to a sweep, while `is_mine`."""

    def __init__(self, engine: Engine, sweep: str, owner: str) -> None:
        self._engine = engine
        self._sweep = sweep
        self._owner = owner

    def beat(self) -> bool:
        """Renew it; False where another driver has taken it, and then it stays so."""
        with self._engine.begin() as connection:
            mine = (_LEASES.c.sweep == self._sweep) & (_LEASES.c.owner == self._owner)
            done = connection.execute(update(_LEASES).where(mine).values(beat=_now(connection)))
            return done.rowcount == 1

    def holder(self) -> Holder | None:
        """Who holds it now."""
        return _read(self._engine, self._sweep)

    @property
    def stop_asked(self) -> bool:
        """Whether somebody asked this driver to stop."""
        found = self.holder()
        return found is not None and found.owner == self._owner and found.stop_asked is not None

    def release(self) -> None:
        """Give it back; nothing where it is another's."""
        with self._engine.begin() as connection:
            mine = (_LEASES.c.sweep == self._sweep) & (_LEASES.c.owner == self._owner)
            connection.execute(delete(_LEASES).where(mine))


@contextmanager
def held(url: str, sweep: str) -> Iterator[Lease]:
    """The lease of a sweep, for a block; see `acquire`."""
    lease = acquire(url, sweep)
    try:
        yield lease
    finally:
        with suppress(DBAPIError):  # a database that takes nothing more: the lease expires by itself
            lease.release()


def acquire(url: str, sweep: str) -> Lease:
    """Take the lease of a sweep.

    Args:
        url: SQLAlchemy address of the study's database.
        sweep: its name.

    Raises:
        LeaseHeld: a driver runs it; the message names its host, process and newest beat.
    """
    engine = _open(url)
    owner = str(uuid.uuid4())
    while True:  # who loses a race sees its winner the next time
        seen = _read(engine, sweep)
        if seen is not None and seen.is_live:
            raise LeaseHeld(
                f"{sweep} runs already: {seen}. Watch it with `sweeps logs {sweep} --follow`, or end it "
                f"with `sweeps stop {sweep}`; a driver that died is taken over after {EXPIRY_SECONDS:.0f} s."
            )
        if _take(engine, sweep, owner, seen):
            return Lease(engine, sweep, owner)


def holder(url: str, sweep: str) -> Holder | None:
    """Who holds the lease of a sweep, alive or not; None where nobody does."""
    return holders(url).get(sweep)


def holders(url: str) -> dict[str, Holder]:
    """Who holds which lease of a database, by sweep."""
    engine = open_storage(url).engine
    if not inspect(engine).has_table(_LEASES.name):
        return {}
    with engine.connect() as connection:
        return _rows(connection)


def ask_to_stop(url: str, sweep: str, asked: Holder) -> bool:
    """Ask one driver to stop as Ctrl-C does; False where it is no longer the one that runs.

    The request is kept with its lease: the next driver never sees it.
    """
    with open_storage(url).engine.begin() as connection:
        theirs = (_LEASES.c.sweep == sweep) & (_LEASES.c.owner == asked.owner)
        done = connection.execute(update(_LEASES).where(theirs).values(stop_asked=_now(connection)))
        return done.rowcount == 1


def _open(url: str) -> Engine:
    engine = open_storage(url).engine
    try:
        with engine.begin() as connection:
            connection.execute(CreateTable(_LEASES, if_not_exists=True))
    except DBAPIError:  # PostgreSQL: of two that create it at once, one fails
        if not inspect(engine).has_table(_LEASES.name):
            raise
    return engine


def _take(engine: Engine, sweep: str, owner: str, seen: Holder | None) -> bool:
    with engine.begin() as connection:
        now = _now(connection)
        mine = {"owner": owner, **_process(), "acquired": now, "beat": now, "stop_asked": None}
        if seen is None:
            try:
                connection.execute(insert(_LEASES).values(sweep=sweep, **mine))
            except IntegrityError:
                connection.rollback()
                return False
            return True
        unchanged = (
            (_LEASES.c.sweep == sweep) & (_LEASES.c.owner == seen.owner) & (_LEASES.c.beat == seen.beat)
        )
        return connection.execute(update(_LEASES).where(unchanged).values(**mine)).rowcount == 1


def _read(engine: Engine, sweep: str) -> Holder | None:
    with engine.connect() as connection:
        return _rows(connection).get(sweep)


def _rows(connection: Connection) -> dict[str, Holder]:
    age = (_now(connection) - _LEASES.c.beat).label("age")
    found = connection.execute(select(_LEASES, age)).mappings()
    return {row["sweep"]: Holder(**{k: v for k, v in row.items() if k != "sweep"}) for row in found}


def _now(connection: Connection) -> ColumnElement[float]:
    """The database's clock: seconds since 1970."""
    if connection.dialect.name == "sqlite":
        return literal_column("((julianday('now') - 2440587.5) * 86400.0)", Double)
    return literal_column("extract(epoch from clock_timestamp())::double precision", Double)


def _process() -> dict[str, Any]:
    me = psutil.Process()
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": me.pid,
        "process_started": me.create_time(),
    }


def _machine() -> str:
    """What has process ids of its own: a boot of a machine, or a container there."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and namespace.is_symlink():
        return f"{boot.read_text().strip()} {namespace.readlink()}"
    return f"{socket.gethostname()} {uuid.getnode():x}"
