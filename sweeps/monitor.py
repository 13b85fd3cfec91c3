"""What the driver does as trials come and go: show them, note how they ended, stop when asked to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeps import events
from sweeps.progress import Progress
from sweeps.search import Assignment, TrialRow


class Monitor:
    """Passes what happens on to the terminal and to the run folder."""

    def __init__(self, shown: Progress, folder: Path) -> None:
        self._shown = shown
        self._folder = folder
        self._adopted: set[int] = set()
        self._deaths: dict[int, str] = {}  # why the newest worker of a trial died

    def adopt(self, numbers: list[int]) -> None:
        """Trials that an earlier driver left running will be handed out again."""
        self._adopted = set(numbers)

    def started(self, assignment: Assignment) -> None:
        """A trial was handed out."""
        self._shown.started(assignment.number, assignment.params, assignment.number in self._adopted)

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """A trial reported."""
        self._shown.reported(number, result)

    def retried(self, number: int, why: str) -> None:
        """A worker died; its trial continues on another."""
        self._deaths[number] = why
        self._shown.say(f"#{number:<3d} lost its worker ({why}); it continues from its checkpoint")

    def failure(self, number: int) -> str:
        """Why a trial failed whose worker is gone."""
        said = events.failure(self._folder / str(number))
        return said or f"its workers died: {self._deaths.get(number, 'at once')}"

    def say(self, text: str) -> None:
        """Something people should know."""
        self._shown.say(text)

    def ended(self, row: TrialRow, budget: int) -> None:
        """A trial ended: the study knows, now the run folder does, for the records.

        Args:
            row: of the trial.
            budget: trials the sweep may run by now.
        """
        self._shown.extended(budget)
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
    """Whether the sweep was asked to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def stop_on_signal(shown: Progress) -> Iterator[Stop]:
    """While the block runs, the first Ctrl-C or SIGTERM asks for a clean stop; the second ends at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        stop.asked = True
        shown.say("stopping: running trials write a checkpoint first; Ctrl-C again stops at once")
        for each in before:
            signal.signal(each, signal.default_int_handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    except KeyboardInterrupt:
        stop.asked = True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
