"""What a run spends: time, GPU time and FLOPs, kept in the study as it goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from sweeps.kept.budget import Spent
from sweeps.kept.trials import TrialRow, beyond_report
from sweeps.search import Study
from sweeps.views.progress import Display

_FLOPS = "cost/train_flops"


class Spending:
    """Adds what this run spends to what earlier runs spent.

    Time counts while a driver runs: what passes between two runs is nobody's, and a driver that is killed
    loses what passed since its last `write`.

    Args:
        study: keeps the sums.
        gpus_per_trial: that every running trial holds.
        replicates: trainings that a trial stands for.
        shown: told the sums.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        study: Study,
        gpus_per_trial: float,
        replicates: int,
        shown: Display,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study = study
        self._gpus = gpus_per_trial
        self._replicates = replicates
        self._shown = shown
        self._clock = clock
        self._lock = threading.Lock()  # the heartbeat writes, too
        self._before = study.spent
        self._hours = 0.0
        self._gpu_hours = 0.0
        self._flops: dict[int, float] = {}  # of trials that have not ended: number -> at its newest report
        self._taken: dict[int, float] = {}  # number -> what to add to its reports, see `beyond_report`
        self._holding: set[int] = set()  # numbers of those that hold a slot
        self._ended = sum(row.executed(_FLOPS) for row in study.rows() if row.state.has_ended)
        self._since = clock()

    def started(self, number: int) -> None:
        """From now on the trial holds its GPUs; it may have gone on from another's checkpoint."""
        taken = beyond_report(self._study.row(number).changes, _FLOPS)
        with self._lock:
            self._advance()
            self._holding.add(number)
            self._taken[number] = taken
        self.write()

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """Remember how far the trial has come."""
        with self._lock:
            if (reported := result.get("metrics", {}).get(_FLOPS)) is not None:
                executed = float(reported) + self._taken.get(number, 0.0)
                self._flops[number] = max(self._flops.get(number, 0.0), executed)

    def paused(self, number: int) -> None:
        """The trial holds its GPUs no longer, and goes on later."""
        with self._lock:
            self._advance()
            self._holding.discard(number)
        self.write()

    def ended(self, row: TrialRow) -> None:
        """The trial holds its GPUs no longer."""
        with self._lock:
            self._advance()
            self._holding.discard(row.number)
            self._ended += max(self._flops.pop(row.number, 0.0), row.executed(_FLOPS))
        self.write()

    def write(self) -> None:
        """Keep the sums in the study."""
        with self._lock:
            self._advance()
            spent = self.spent
            self._study.note_spent(spent)
        self._shown.accounted(self._study.budget, spent)

    @property
    def spent(self) -> Spent:
        """By all runs of the sweep; trials are for the study to count."""
        flops = self._replicates * (self._ended + sum(self._flops.values()))
        return Spent(
            hours=self._before.hours + self._hours,
            gpu_hours=self._before.gpu_hours + self._gpu_hours,
            # A trial that was left running has not reported to this run yet.
            train_flops=max(self._before.train_flops, flops),
        )

    def _advance(self) -> None:
        now = self._clock()
        hours, self._since = (now - self._since) / 3600, now
        self._hours += hours
        self._gpu_hours += hours * self._gpus * len(self._holding)
