"""Ray Tune's handle on an attempt: one process runs trial after trial, gives way when it is told to end, and
ends itself when it hangs.
"""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune

from sweeps.kept.endings import Ending
from sweeps.kept.events import HUNG
from sweeps.trial.attempt import Attempt
from sweeps.trial.engine import Engine, Growcore
from sweeps.trial.job import Job


class SweepTrial(tune.Trainable):
    """Runs one attempt after the other."""

    engine: Engine = Growcore()

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first job."""
        self._is_told_to_end = False
        self._take(Job(**config["job"]), None)
        signal.signal(signal.SIGTERM, self._told_to_end)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job in the same process."""
        self._take(Job(**new_config["job"]), self._attempt.full_train_flops)
        return True

    def step(self) -> dict[str, Any]:
        """Train until the next report."""
        with self._watched():
            result = self._attempt.advance()
        if self._must_end(result["ending"]):
            # Not returned: Tune would give this process another trial. The trial's folder tells the driver.
            ray.actor.exit_actor()  # type: ignore[no-untyped-call]
        return result

    def _must_end(self, ending: str | None) -> bool:
        """Whether this process must not take another trial: an error may leave a GPU's context unusable."""
        is_doubtful = ending == Ending.crashed and self._job.device == "cuda"
        return ending == Ending.preempted or is_doubtful

    def cleanup(self) -> None:
        """The worker ends, perhaps in the middle of a trial."""
        self._attempt.close()

    def _take(self, job: Job, full_train_flops: float | None) -> None:
        self._job = job
        self._attempt = Attempt(job, self.engine, full_train_flops)
        if self._is_told_to_end:
            self._attempt.preempt()

    def _told_to_end(self, number: int, frame: object) -> None:
        """SIGTERM: the machine is wanted by somebody else, and soon gone."""
        self._is_told_to_end = True
        self._attempt.preempt()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """End this process where the block takes too long, and leave behind where it stood.

        The watchdog is a thread of C's that needs no interpreter: it also ends what holds on to that.
        """
        seconds = self._job.hang_seconds
        if seconds is None:
            yield
            return
        path = Path(self._job.folder) / HUNG
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            faulthandler.dump_traceback_later(seconds, exit=True, file=file)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
        path.unlink(missing_ok=True)
