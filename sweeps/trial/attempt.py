"""One worker's work on one trial: its trainings side by side, reported together, until something ends it.

A worker process is reused for one trial after another, so it imports torch and loads its data once. What
happened goes to the trial's folder first (`sweeps.kept.events`) and to the driver second: an outage of
anything else loses nothing. A trial whose folder already holds checkpoints continues from them.

The replicates of a configuration are trained in turns, epoch by epoch of their reports, so that whoever
judges the configuration early judges the mean of all of them at the same fidelity.
"""

from __future__ import annotations

import os
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from growcore.config import TrialConfig
from growcore.training.report import TrialFailed, TrialInfeasible
from sweeps.config.own_modules import importable_from
from sweeps.kept import replicates
from sweeps.kept.endings import Ending
from sweeps.kept.events import EventWriter, Unrecorded
from sweeps.trial.engine import Engine
from sweeps.trial.job import Job, Turn
from sweeps.trial.replicate import Replicate

_SECONDS = "cost/wall_seconds"


class Attempt:
    """`advance()` until its result says done.

    Args:
        job: what to train.
        engine: what trains it.
        full_train_flops: of a full trial; None: to be measured.
    """

    def __init__(self, job: Job, engine: Engine, full_train_flops: float | None = None) -> None:
        self.full_train_flops = full_train_flops
        self._job = job
        self._engine = engine
        self._folder = Path(job.folder)
        self._writer: EventWriter | None = None
        self._replicates: list[Replicate] = []
        self._is_preempted = False

    def advance(self) -> dict[str, Any]:
        """Train until the next report and return it as Ray Tune takes it; see `_result`.

        Whatever training raises ends this attempt, not the worker and not the sweep: the reason is recorded
        and returned.
        """
        try:
            if self._writer is None:
                self._start()
            return self._advance()
        except TrialInfeasible as error:
            return self._ended(Ending.infeasible, f"infeasible: {_reason(error)}", traceback.format_exc())
        except TrialFailed as error:
            return self._ended(Ending.failed, _reason(error), traceback.format_exc())
        except Unrecorded as error:
            return self._let_go(Ending.unrecorded, str(error))
        except Exception as error:
            return self._ended(Ending.crashed, _reason(error), traceback.format_exc())

    def preempt(self) -> None:
        """Keep what was reached and give the trial back; may be called in a signal handler."""
        self._is_preempted = True
        for each in self._replicates:
            each.pause()

    def close(self) -> None:
        """Keep what an unfinished trial has reached, for whoever continues it."""
        with suppress(Unrecorded):  # nobody is left to be told
            for each in self._replicates:
                each.try_to_save()

    # Training

    def _start(self) -> None:
        job = self._job
        os.chdir(job.workdir)
        importable_from(job.workdir)
        self._writer = EventWriter(self._folder)
        if self._is_preempted:
            return
        if self.full_train_flops is None:
            self.full_train_flops = self._engine.full_train_flops(TrialConfig.from_dict(job.base), job.device)
        for index, folder in enumerate(replicates.folders(self._folder, job.num_replicates)):
            config = TrialConfig.from_dict(job.config)
            config.seed += index
            writer = self._writer if job.num_replicates == 1 else EventWriter(folder)
            self._replicates.append(Replicate(config, folder, writer, self._engine, job.device))
        if job.num_replicates > 1:
            self._writer.write(
                "started", {"continues": None, "pid": os.getpid(), "host": os.uname().nodename}
            )

    def _advance(self) -> dict[str, Any]:
        if self._is_preempted or not self._train():
            return self._gave_way()
        report = self._report()
        if self._job.num_replicates > 1:
            self._write("report", report)
        result = self._result(report)
        if report["finished"]:
            return result | _over(Ending.finished)
        if self._is_expired(report):
            self._save()
            return result | self._let_go(Ending.expired, f"trained for {self._job.trial_seconds:g} s")
        if self._turn_is_over(report):
            self._save()
            return result | self._let_go(Ending.turn_over, "its turn is over")
        return result

    def _train(self) -> bool:
        """Train those furthest behind to their next report, until all are level; False where one paused."""
        # None goes on where all have finished: a worker may have died before the driver heard of it.
        going = [each for each in self._replicates if not each.finished]
        while going:
            behind = min(each.epoch for each in going)
            for each in going:
                if each.epoch == behind and not each.advance():
                    return False
            going = [each for each in going if not each.finished]
            if len({each.epoch for each in going}) <= 1:
                break
        return True

    def _report(self) -> dict[str, Any]:
        """The newest report; of several replicates their mean."""
        newest = [each.newest for each in self._replicates if each.newest is not None]
        if len(self._replicates) == 1:
            return newest[0]
        metrics = [report["metrics"] for report in newest]
        return {
            "step": max(report["step"] for report in newest),
            "epoch": max(report["epoch"] for report in newest),
            "metrics": replicates.mean(metrics),
            "errors": replicates.standard_errors(metrics),
            "edits": [],  # and findings: in the folder of each
            "finished": all(report["finished"] for report in newest),
            "findings": [],
        }

    def _result(self, report: dict[str, Any]) -> dict[str, Any]:
        """What the driver is told: `done` where this attempt is over, and then `ending` says how."""
        counts = sum((each.edits for each in self._replicates), start=Counter[str]())
        first = self._replicates[0].checkpoint
        newest = [each.newest["metrics"] for each in self._replicates if each.newest is not None]
        return {
            "metrics": report["metrics"],
            "replicates": newest if len(newest) > 1 else [],
            "full_train_flops": self.full_train_flops,
            "step": report["step"],
            "epoch": float(report["epoch"]),
            "num_grown": counts["grow"],
            "num_pruned": counts["prune"] + counts["remove"],
            "checkpoint": None if first is None else str(first),
            "notes": self._notes(),
            "ending": None,
            "reason": None,
            "done": False,
        }

    def _notes(self) -> list[str]:
        """What people should know, once."""
        told = [note for each in self._replicates for note in each.notes]
        for each in self._replicates:
            each.notes = []
        return told

    # Ending

    def _is_expired(self, report: dict[str, Any]) -> bool:
        limit = self._job.trial_seconds
        return limit is not None and report["metrics"].get(_SECONDS, 0.0) >= limit

    def _turn_is_over(self, report: dict[str, Any]) -> bool:
        assert self.full_train_flops is not None
        turn = self._job.turn
        return turn is not None and Turn(**turn).is_over(report, self.full_train_flops)

    def _gave_way(self) -> dict[str, Any]:
        if not self._is_preempted:
            return self._ended(Ending.failed, "training ended without a finished report")
        self.close()
        return self._let_go(Ending.preempted, "its worker was told to end")

    def _let_go(self, ending: Ending, reason: str) -> dict[str, Any]:
        """The trial is no longer this worker's; its networks are."""
        if ending is not Ending.unrecorded:
            self._write(ending.name, {"reason": reason})
        self._replicates = []
        return _over(ending, reason)

    def _ended(self, ending: Ending, reason: str, trace: str = "") -> dict[str, Any]:
        notes = self._notes()
        self._replicates = []
        try:
            self._write("failed", {"reason": reason, "traceback": trace})
        except Unrecorded as error:
            return _over(Ending.unrecorded, str(error))
        return _over(ending, reason) | {"notes": notes}

    def _write(self, kind: str, values: dict[str, Any]) -> None:
        assert self._writer is not None
        self._writer.write(kind, values)

    def _save(self) -> None:
        for each in self._replicates:
            each.save()


def _over(ending: Ending, reason: str | None = None) -> dict[str, Any]:
    return {"ending": ending.value, "reason": reason, "done": True}


def _reason(error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if isinstance(error, TrialFailed):  # infeasible ones are
        return first_line
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
