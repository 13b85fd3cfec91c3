"""The thread that keeps a driver's lease while Ray and training keep its main thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sweeps.run.lease import BEAT_SECONDS, EXPIRY_SECONDS, Lease
from sweeps.run.monitor import Stop

_POLL_SECONDS = 1.0  # within which a request to stop is heard


class Heartbeat:
    """Renews a lease, hears requests to stop, and stops a run whose lease is gone.

    Args:
        lease: of the sweep.
        stop: asked when somebody asks this driver to stop, or another driver has the lease.
        say: told what people should know.
    """

    def __init__(self, lease: Lease, stop: Stop, say: Callable[[str], None]) -> None:
        self._lease = lease
        self._stop = stop
        self._say = say
        self._on_beat: list[Callable[[], None]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)
        self._beaten = time.monotonic()
        self._is_silent = False  # whether people were told that the database does not answer
        self.is_lost = False  # whether the lease is another driver's now

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(timeout=2 * EXPIRY_SECONDS)

    def also(self, do: Callable[[], None]) -> None:
        """Do this at every beat, too."""
        self._on_beat.append(do)

    def _loop(self) -> None:
        while not self._ending.wait(_POLL_SECONDS):
            try:
                self.tick()
                self._is_silent = False
            except Exception as error:  # whatever the database raises: the next tick tries again
                self._complain(error)

    def tick(self) -> None:
        """Look for a request; beat where it is time."""
        if self.is_lost:
            return
        if self._lease.stop_asked and not self._stop.asked:
            self._say("stopping, as `sweeps stop` asked: running trials write a checkpoint first")
            self._stop.asked = True
        if time.monotonic() - self._beaten >= BEAT_SECONDS:
            self._beat()

    def _beat(self) -> None:
        if not self._lease.beat():
            self._lost()
            return
        self._beaten = time.monotonic()
        for do in self._on_beat:
            do()

    def _lost(self) -> None:
        self.is_lost = self._stop.asked = True
        whom = self._lease.holder() or "nobody"
        self._say(f"stopping: this driver was silent for too long, and its sweep belongs to {whom} now")

    def _complain(self, error: Exception) -> None:
        if not self._is_silent:
            self._say(f"the study's database does not answer ({type(error).__name__}); trying again")
        self._is_silent = True
