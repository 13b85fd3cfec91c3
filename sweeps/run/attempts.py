"""Attempts at the trials of a sweep: why one was lost, and whether there is another.

What an attempt came to is in the trial's folder, so the count of failures outlives drivers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.kept import events
from sweeps.kept.endings import Ending, Next, following
from sweeps.kept.events import Unrecorded


@dataclass(frozen=True, kw_only=True, slots=True)
class Death:
    """What Ray says of a worker that is gone."""

    reason: str
    was_preempted: bool  # its machine was taken away


class Attempts:
    """Judges the attempts at the trials of one sweep.

    Args:
        folder: of the sweep.
        max_retries: attempts that crash or are lost and are followed by another one, of each trial.
        say: told what people should know.
    """

    def __init__(self, folder: Path, max_retries: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._max_retries = max_retries
        self._say = say
        self._deaths: dict[int, Death] = {}
        self._num_heard: dict[int, int] = {}  # trial -> events of its earlier attempts

    def adopt(self, numbers: Sequence[int]) -> None:
        """Trials that an earlier driver left running: what their attempts said is past."""
        for number in numbers:
            self._hear(number)

    def died(self, number: int, death: Death) -> None:
        """The worker of a trial is gone; `lost` is asked next."""
        self._deaths[number] = death

    def lost(self, number: int) -> tuple[Ending, str]:
        """Why an attempt ended that gave no result, and note it in the trial's folder."""
        death = self._deaths.pop(number, Death(reason="at once", was_preempted=False))
        trial = self._folder / str(number)
        last = self._hear(number)
        if death.was_preempted or last.get("kind") == Ending.preempted.name:
            return Ending.preempted, "its worker was told to end"
        if last.get("kind") == "failed":  # it said so, and ended itself
            return Ending.crashed, str(last["reason"])
        reason, trace = self._why(trial, death)
        try:
            events.EventWriter(trial).write("lost", {"reason": reason, "traceback": trace})
        except Unrecorded as error:
            return Ending.unrecorded, str(error)
        self._hear(number)
        return Ending.lost, reason

    def _hear(self, number: int) -> dict[str, Any]:
        """The last event of the newest attempt; empty where it wrote none."""
        segments = events.segments(self._folder / str(number))
        num_heard, self._num_heard[number] = self._num_heard.get(number, 0), len(segments)
        return events.read_segment(segments[-1])[-1] if len(segments) > num_heard else {}

    def _why(self, trial: Path, death: Death) -> tuple[str, str]:
        hung = trial / events.HUNG
        trace = hung.read_text() if hung.exists() else ""
        hung.unlink(missing_ok=True)
        if trace:
            return "its worker hung and was ended (cluster.hang_seconds)", trace
        return f"its worker died: {death.reason}", ""

    def verdict(self, number: int, reason: str | None) -> str:
        """Why a trial failed, with the number of attempts where there were several."""
        num = events.num_failures(self._folder / str(number))
        return f"{reason or 'for no known reason'}{f' ({num} times)' if num > 1 else ''}"

    def following(self, number: int, ending: Ending | None, reason: str | None) -> Next:
        """What follows an attempt, said to people where it is another attempt."""
        self._hear(number)
        may_fail_again = ending in (Ending.crashed, Ending.lost)  # else nobody has to count
        num = events.num_failures(self._folder / str(number)) if may_fail_again else 0
        found = following(ending, num, self._max_retries)
        if found is Next.again:
            tried = f" (failure {num}, {self._max_retries} are allowed)" if may_fail_again else ""
            self._say(f"#{number:<3d} goes on from its checkpoint: {reason}{tried}")
        return found
