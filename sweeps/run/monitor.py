"""What the driver does as trials come and go: show them, note how they ended, stop when asked to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sweeps.kept import events
from sweeps.kept.budget import too_many
from sweeps.kept.trials import Assignment, TrialRow, TrialState
from sweeps.views.progress import Display


class TrialCallback(Protocol):
    """Hears of every trial of a run, before anybody is shown it."""

    def started(self, number: int) -> None:
        """A trial was handed out."""

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """A trial reported."""

    def paused(self, number: int) -> None:
        """A trial gave its slot back; it is started again."""

    def ended(self, row: TrialRow) -> None:
        """A trial ended."""


class Monitor:
    """Passes what happens on to the terminal and to the run folder."""

    def __init__(
        self, shown: Display, folder: Path, stop: Stop, callbacks: Sequence[TrialCallback] = ()
    ) -> None:
        self._shown = shown
        self._folder = folder
        self._stop = stop
        self._callbacks = callbacks
        self._begun: set[int] = set()

    def adopt(self, numbers: list[int]) -> None:
        """Trials that an earlier driver left running will be handed out again."""
        self._begun |= set(numbers)

    def started(self, assignment: Assignment) -> None:
        """A trial was handed out, or handed out again."""
        number = assignment.number
        for callback in self._callbacks:
            callback.started(number)
        self._shown.started(number, assignment.params, number in self._begun)
        self._begun.add(number)

    def resumed(self, number: int) -> None:
        """A trial has a slot again; nobody is told but those who count."""
        for callback in self._callbacks:
            callback.started(number)

    def paused(self, number: int) -> None:
        """A trial gave its slot back and goes on later."""
        for callback in self._callbacks:
            callback.paused(number)

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """A trial reported."""
        for callback in self._callbacks:
            callback.reported(number, result)
        self._shown.reported(number, result)

    def give_up(self, reason: str) -> None:
        """The sweep cannot go on."""
        self._shown.say(f"stopping: {reason}")
        self._stop.fail(reason)

    def say(self, text: str) -> None:
        """Something people should know."""
        self._shown.say(text)

    def ended(self, row: TrialRow) -> None:
        """A trial ended: the study knows, now the run folder does, for the records."""
        for callback in self._callbacks:
            callback.ended(row)
        self._write(row)
        self._shown.ended(row)

    def catch_up(self, rows: list[TrialRow]) -> None:
        """Write what an earlier driver told the study and died before it wrote."""
        for row in rows:
            if row.state.has_ended and not self._path(row, events.OUTCOME).exists():
                self._write(row)

    def _write(self, row: TrialRow) -> None:
        if not self._path(row, events.GIVEN).exists():  # its parameters contradict each other: it never ran
            given = {"params": row.params, "overrides": row.overrides, "config": row.config, "command": ""}
            events.write_json(self._path(row, events.GIVEN), {"number": row.number, **given})
        outcome = {"state": row.state.value, "reason": row.reason, "value": row.value}
        if row.changes:
            outcome["continued"] = ", ".join(change.told for change in row.changes)
        events.write_json(self._path(row, events.OUTCOME), {**outcome, **row.outcome.to_dict()})

    def _path(self, row: TrialRow, name: str) -> Path:
        return self._folder / str(row.number) / name


class Stop:
    """Whether this run of the sweep is to stop, and whether that is a failure."""

    def __init__(self) -> None:
        self.asked = False
        self.failure: str | None = None

    def fail(self, reason: str) -> None:
        """Stop, as going on would be a waste."""
        self.failure = self.failure or reason
        self.asked = True


class FailureWatch:
    """Stops a run in which too large a share of the trials fails.

    Trials of earlier runs do not count: who resumes has removed the cause, or wants to see it again.
    """

    def __init__(self, share: float, stop: Stop, say: Callable[[str], None]) -> None:
        self._share = share
        self._stop = stop
        self._say = say
        self._num_ended = 0
        self._reasons: list[str] = []

    def started(self, number: int) -> None:
        """Nothing."""

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """Nothing."""

    def paused(self, number: int) -> None:
        """Nothing."""

    def ended(self, row: TrialRow) -> None:
        """Count the trial."""
        self._num_ended += 1
        if row.state is TrialState.failed:
            self._reasons.append(row.reason or "for no known reason")
        verdict = too_many(self._reasons, self._num_ended, self._share)
        if verdict is not None and not self._stop.asked:
            self._say(f"stopping: {verdict}")
            self._stop.fail(verdict)


@contextmanager
def stop_on_signal(stop: Stop, shown: Display) -> Iterator[None]:
    """While the block runs, a first Ctrl-C, SIGTERM or SIGHUP asks for a clean stop, another ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def ask(number: int, frame: object) -> None:
        stop.asked = True
        shown.say("stopping: running trials write a checkpoint first; Ctrl-C again stops at once")
        for each in before:
            signal.signal(each, signal.default_int_handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    except KeyboardInterrupt:
        stop.asked = True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
