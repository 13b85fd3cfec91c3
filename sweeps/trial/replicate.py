"""One training of a trial in its own folder: its events first, then its checkpoints."""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from growcore.config import TrialConfig
from sweeps.kept.events import EventWriter, Unrecorded, edits, reports
from sweeps.trial.engine import Engine

CHECKPOINT_SECONDS = 5.0  # training that may be lost when a worker dies


class Replicate:
    """A training that goes on from the newest checkpoint in its folder.

    Args:
        config: what to train.
        folder: of its events and checkpoints.
        writer: of its events.
        engine: what trains.
        device: "cpu" or "cuda".

    Raises:
        Unrecorded: from every method that writes, when the disk takes nothing more.
    """

    def __init__(
        self, config: TrialConfig, folder: Path, writer: EventWriter, engine: Engine, device: str
    ) -> None:
        self.newest: dict[str, Any] | None = None  # report
        self.checkpoint: Path | None = None
        self.edits: Counter[str] = Counter()  # by kind
        self.notes: list[str] = []  # what people should know and nobody was told
        self._folder = folder
        self._engine = engine
        self._writer = writer
        self._is_saved = True
        self._training = engine.build(config, device)
        self._continue(device)
        self._reports: Iterator[Any] = iter(self._training)
        self._saved_at = time.monotonic()
        name = None if self.checkpoint is None else self.checkpoint.name
        self._writer.write("started", {"continues": name, "pid": os.getpid(), "host": os.uname().nodename})
        for note in self.notes:
            self._writer.write("warning", {"reason": note})

    def _continue(self, device: str) -> None:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self.checkpoint = self._engine.newest(self._checkpoints)
        self.notes += [str(warning.message) for warning in said]
        if self.checkpoint is None:
            return
        step = self._engine.load(self.checkpoint, self._training, device)
        self.edits.update(str(edit["kind"]) for edit in edits(self._folder, until_step=step))
        reached = [report for report in reports(self._folder) if report["step"] <= step]
        # A report beyond the checkpoint is left out: that part is trained again.
        self.newest = reached[-1] if reached else None

    @property
    def _checkpoints(self) -> Path:
        return self._folder / "checkpoints"

    @property
    def epoch(self) -> float:
        """Of the newest report; 0 before the first."""
        return 0.0 if self.newest is None else float(self.newest["epoch"])

    @property
    def finished(self) -> bool:
        """Whether the newest report is the last one."""
        return self.newest is not None and bool(self.newest["finished"])

    def advance(self) -> bool:
        """Train until the next report; False where there is none, because training was paused.

        Raises:
            Exception: whatever training raises.
        """
        report = next(self._reports, None)
        self._is_saved = False
        if report is None:
            return False
        values = report.to_dict()
        # Paused at the very end of an epoch, it may have been made and counted once before.
        if self.newest is None or values["step"] > self.newest["step"]:
            self.edits.update(str(edit["kind"]) for edit in values["edits"])
        self.newest = values
        self._writer.write("report", values)
        if self.finished:
            self.save()
        elif time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
            self.try_to_save()
        return True

    def pause(self) -> None:
        """Let `advance` end soon; may be called in a signal handler while it runs."""
        self._engine.pause(self._training)

    def save(self) -> None:
        """Write a checkpoint, unless the newest one has it all.

        Raises:
            Unrecorded: it cannot be written; the ones before it are untouched.
        """
        if self._is_saved:
            return
        try:
            self.checkpoint = self._engine.save(self._checkpoints, self._training)
        except OSError as error:
            raise Unrecorded(f"a checkpoint cannot be written: {error}") from error
        self._saved_at = time.monotonic()
        self._is_saved = True

    def try_to_save(self) -> None:
        """Write a checkpoint; where that fails say so and go on: the one before it is still there."""
        try:
            self.save()
        except Unrecorded as error:
            self._saved_at = time.monotonic()
            note = f"{error}; training goes on, and the checkpoint before it stays the newest"
            self.notes.append(note)
            self._writer.write("warning", {"reason": note})
