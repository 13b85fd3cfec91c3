"""One trial on one worker: build it, iterate growcore's training, report, checkpoint; sort failures.

A worker process is reused for one trial after another, so it imports torch and loads its data once. What
happened goes to the trial's folder first (`sweeps.events`) and to the driver second: an outage of anything
else loses nothing. A trial whose folder already holds a checkpoint continues from it.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ray import tune

from growcore.config import TrialConfig
from growcore.report import TrialFailed, TrialInfeasible
from sweeps.events import EventWriter, edits, reports
from sweeps.fidelity import Turn

CHECKPOINT_SECONDS = 5.0  # training that may be lost when a worker dies


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a worker is told: plain values only."""

    sweep: str
    number: int
    folder: str  # absolute, of this trial
    workdir: str  # where the sweep was launched: relative paths of a configuration start here
    config: dict[str, Any]  # TrialConfig.to_dict()
    base: dict[str, Any]  # the sweep's trial before anything is searched; gives the scale of train FLOPs
    device: str  # "cpu" or "cuda"
    turn: dict[str, Any] | None = None  # a sweeps.fidelity.Turn; None: the trial trains to its end

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `Job(**values)` reads them back."""
        return asdict(self)


class Engine(Protocol):
    """What trains: growcore, or a stand-in for tests and benchmarks."""

    def build(self, config: TrialConfig, device: str) -> Any:
        """An iterable of reports, each with `step`, `epoch`, `metrics`, `edits`, `finished`, `to_dict()`."""

    def full_train_flops(self, base: TrialConfig, device: str) -> float:
        """Train FLOPs of a whole trial that is not stopped."""

    def save(self, folder: Path, training: Any) -> Path:
        """Write a checkpoint into `folder` and return its path."""

    def newest(self, folder: Path) -> Path | None:
        """The newest checkpoint that is complete."""

    def load(self, path: Path, training: Any, device: str) -> int:
        """Continue `training` from a checkpoint; returns the step it had reached."""


class Growcore:
    """The engine of every real sweep."""

    def build(self, config: TrialConfig, device: str) -> Any:
        """A growcore Training."""
        from growcore.training import Training

        return Training(config, device)

    def full_train_flops(self, base: TrialConfig, device: str) -> float:
        """Planned growth included; see `growcore.planning.planned_cost`."""
        from growcore.planning import planned_cost

        return float(planned_cost(base).training_flops)

    def save(self, folder: Path, training: Any) -> Path:
        """See `growcore.checkpoint.save`."""
        from growcore import checkpoint

        return checkpoint.save(folder, training)

    def newest(self, folder: Path) -> Path | None:
        """See `growcore.checkpoint.newest`."""
        from growcore import checkpoint

        return checkpoint.newest(folder)

    def load(self, path: Path, training: Any, device: str) -> int:
        """See `growcore.checkpoint.load`."""
        from growcore import checkpoint

        checkpoint.load(path, training, device)
        return int(checkpoint.read_manifest(path)["step"])


class TrialRun:
    """One attempt at one trial: `advance()` until its result says done."""

    def __init__(self, job: Job, engine: Engine, full_train_flops: float | None = None) -> None:
        self.full_train_flops = full_train_flops  # of the base; None: to be measured
        self._job = job
        self._engine = engine
        self._folder = Path(job.folder)
        self._writer = EventWriter(self._folder)
        self._training: Any = None
        self._reports: Iterator[Any] | None = None
        self._counts = {"grow": 0, "prune": 0, "remove": 0, "skip": 0}
        self._saved_at = time.monotonic()
        self._finished: dict[str, Any] | None = None  # the last report, where an earlier attempt made it
        self._unsaved = False  # whether a report came after the newest checkpoint
        self._checkpoint: Path | None = None

    def advance(self) -> dict[str, Any]:
        """Train until the next report and return it as Ray Tune takes it.

        Whatever training raises ends this trial, not the worker and not the sweep: the reason is recorded
        and returned.
        """
        try:
            if self._reports is None:
                self._start()
            if self._finished is not None:
                return self._result(self._finished)
            assert self._reports is not None
            return self._reported(next(self._reports))
        except StopIteration:
            return self._failed("training ended without a finished report")
        except TrialInfeasible as error:
            return self._failed(f"infeasible: {_reason(error)}") | {"infeasible": True}
        except Exception as error:
            return self._failed(_reason(error), traceback.format_exc())

    def close(self) -> None:
        """Keep what an unfinished trial has reached, for whoever continues it."""
        if self._unsaved and self._training is not None:
            self._save()

    def _start(self) -> None:
        os.chdir(self._job.workdir)
        if self.full_train_flops is None:
            base = TrialConfig.from_dict(self._job.base)
            self.full_train_flops = self._engine.full_train_flops(base, self._job.device)
        config = TrialConfig.from_dict(self._job.config)
        self._training = self._engine.build(config, self._job.device)
        self._checkpoint = self._engine.newest(self._checkpoints)
        if self._checkpoint is not None:
            step = self._engine.load(self._checkpoint, self._training, self._job.device)
            self._count(edits(self._folder, until_step=step))
            # The worker may have died between its last report and the driver's hearing of it.
            last = reports(self._folder)[-1:]
            self._finished = next((r for r in last if r["finished"] and r["step"] == step), None)
        self._reports = iter(self._training)
        name = None if self._checkpoint is None else self._checkpoint.name
        self._writer.write("started", {"continues": name, "pid": os.getpid(), "host": os.uname().nodename})

    @property
    def _checkpoints(self) -> Path:
        return self._folder / "checkpoints"

    def _reported(self, report: Any) -> dict[str, Any]:
        values = report.to_dict()
        self._count(values["edits"])
        self._writer.write("report", values)
        self._unsaved = True
        is_over = not report.finished and self._turn_is_over(values)
        if report.finished or is_over or time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
            self._save()
        return self._result(values) | (self._released() if is_over else {})

    def _turn_is_over(self, report: dict[str, Any]) -> bool:
        assert self.full_train_flops is not None
        turn = self._job.turn
        return turn is not None and Turn(**turn).is_over(report, self.full_train_flops)

    def _released(self) -> dict[str, Any]:
        """The slot is another member's now; see `sweeps.turns`."""
        self._writer.write("released", {"reason": "its turn is over"})
        self._training = self._reports = None
        return {"turn_over": True, "done": True}

    def _result(self, report: dict[str, Any]) -> dict[str, Any]:
        return {
            "metrics": report["metrics"],
            "full_train_flops": self.full_train_flops,
            "step": report["step"],
            "epoch": float(report["epoch"]),
            "finished": report["finished"],
            "done": report["finished"],
            "num_grown": self._counts["grow"],
            "num_pruned": self._counts["prune"] + self._counts["remove"],
            "checkpoint": None if self._checkpoint is None else str(self._checkpoint),
        }

    def _count(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            self._counts[str(record["kind"])] += 1

    def _save(self) -> None:
        self._checkpoint = self._engine.save(self._checkpoints, self._training)
        self._saved_at = time.monotonic()
        self._unsaved = False

    def _failed(self, reason: str, trace: str = "") -> dict[str, Any]:
        self._writer.write("failed", {"reason": reason, "traceback": trace})
        self._training = self._reports = None
        return {"failed": reason, "done": True}


def _reason(error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if isinstance(error, TrialFailed):  # infeasible ones are
        return first_line
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


class SweepTrial(tune.Trainable):
    """Ray Tune's handle on a TrialRun; one actor runs trial after trial."""

    engine: Engine = Growcore()

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first job."""
        self._run = TrialRun(Job(**config["job"]), self.engine)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job in the same process."""
        self._run = TrialRun(Job(**new_config["job"]), self.engine, self._run.full_train_flops)
        return True

    def step(self) -> dict[str, Any]:
        """Train until the next report."""
        return self._run.advance()

    def cleanup(self) -> None:
        """The worker ends, perhaps in the middle of a trial."""
        self._run.close()
