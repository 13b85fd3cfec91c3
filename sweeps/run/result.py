"""What a run of a sweep came to: for who started it, for its records and for who is notified."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeps.config.settings import NotifyEvent
from sweeps.kept import events
from sweeps.kept.trials import TrialRow
from sweeps.records import best
from sweeps.run.notify import Notifier
from sweeps.search import Study


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How a sweep, or this run of it, ended."""

    study: Study
    folder: Path
    best: Path | None  # the best file; None where no trial is complete
    interrupted: bool  # there is more to run, within the budget
    ended_by: str | None  # which budget is spent: `16 of 16 trials`
    failure: str | None  # why it stopped, where going on would be a waste
    seconds: float  # wall seconds of this run
    num_slots: int
    busy: float  # fraction of slot time spent training
    complaint: str | None  # why records are missing in MLflow

    @property
    def status(self) -> str:
        """What it is recorded as: complete, interrupted or failed."""
        if self.failure is not None or (self.best is None and not self.interrupted):
            return "failed"
        return "interrupted" if self.interrupted else "complete"


def result_of(
    study: Study,
    folder: Path,
    before: Sequence[TrialRow],
    *,
    seconds: float,
    num_slots: int,
    num_replicates: int,
    failure: str | None,
) -> Result:
    """What the trials of a run came to; its best file is written.

    Args:
        study: of the sweep.
        folder: of the sweep.
        before: its trials when the run began.
        seconds: wall seconds of the run.
        num_slots: trials that ran side by side; 0 where none was run.
        num_replicates: trainings of each trial.
        failure: why the run stopped, where going on would be a waste.
    """
    done = {row.number for row in before if row.state.has_ended}
    rows = (row for row in study.rows() if row.number not in done)
    worked = num_replicates * sum(row.executed("cost/wall_seconds") for row in rows)
    chosen = study.best()
    return Result(
        study=study,
        folder=folder,
        best=best.export(study, chosen, folder / "best.yaml") if chosen else None,
        interrupted=not study.is_over,
        ended_by=study.ended_by,
        failure=failure,
        seconds=seconds,
        num_slots=num_slots,
        busy=min(1.0, worked / max(1e-9, seconds * num_slots)),
        complaint=None,
    )


def write(result: Result) -> None:
    """Keep in the sweep's folder what its records say of it."""
    num = result.study.summary().num_trials
    metrics = {f"trials/{state.value}": float(count) for state, count in num.items()}
    if (found := result.study.best()) is not None:
        metrics |= {f"best/{key}": value for key, value in found.outcome.metrics.items()}
    outcome = {"status": result.status, "metrics": metrics, "time": time.time()}
    events.write_json(result.folder / events.OUTCOME, outcome)


def tell(result: Result, notifier: Notifier) -> None:
    """Notify of a run that failed or finished; not of one in which nothing was left to run."""
    if result.num_slots == 0:
        return
    if result.status == "failed":
        notifier.tell(NotifyEvent.failed, result.failure or "no trial is complete")
    elif result.status == "complete":
        row = result.study.best()
        assert row is not None
        assert row.value is not None
        message = f"finished ({result.ended_by}), best trial {row.number}: {row.value:.4f}"
        notifier.tell(NotifyEvent.finished, message, trial=row.number, value=row.value)
