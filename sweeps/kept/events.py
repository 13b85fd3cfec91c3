"""What a trial did, as JSON lines in its own folder: the record everything else is rebuilt from.

Layout of `storage.root/SWEEP/NUMBER/`:
    trial.json                    what was given: number, params, overrides, the whole configuration
    events/ATTEMPT-SEQ.jsonl      what happened, one closed file per report; a new worker is a new attempt
    outcome.json                  how it ended, written by the driver
    checkpoints/                  see `growcore.training.checkpoint`
    hung.txt                      where its worker stood when it was ended because it hung

A trial with several replicates keeps the means there, and each training in a folder of its own; see
`sweeps.kept.replicates`.

Every file is written under a temporary name and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FORMAT = 1  # of the run folder
GIVEN = "trial.json"
OUTCOME = "outcome.json"
HUNG = "hung.txt"
FAILURES = ("failed", "lost")  # kinds of events: said by the worker itself, or by the driver


class Unrecorded(Exception):
    """What happened cannot be written to the run folder: the disk is full, or gone."""


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it comes from, is that the disk takes nothing more."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in str(error):
            return True  # the words are SQLite's
        error = error.__cause__ or error.__context__
    return False


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write atomically: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's values, or None where there is no such file."""
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None


class EventWriter:
    """Appends events of one attempt at a trial; each call closes one segment file.

    Raises:
        Unrecorded: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "events"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unrecorded(f"{self._folder} cannot be made: {error}") from error
        self.attempt = 1 + max((attempt for attempt, _ in _names(self._folder)), default=0)
        self._sequence = 0

    def write(self, kind: str, values: Mapping[str, Any]) -> Path:
        """One event, stamped with the wall clock (seconds since 1970) and this attempt's number."""
        self._sequence += 1
        path = self._folder / f"{self.attempt:03d}-{self._sequence:06d}.jsonl"
        event = {"kind": kind, "time": time.time(), "attempt": self.attempt, **values}
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(event) + "\n")
            temporary.replace(path)
        except OSError as error:
            raise Unrecorded(f"{path} cannot be written: {error}") from error
        return path


def segments(folder: Path) -> list[Path]:
    """Closed segment files of a trial's folder, in the order they were written."""
    events = folder / "events"
    return [events / f"{attempt:03d}-{number:06d}.jsonl" for attempt, number in sorted(_names(events))]


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """Every event of a trial, in the order it happened."""
    for segment in segments(folder):
        yield from read_segment(segment)


def read_segment(segment: Path) -> list[dict[str, Any]]:
    """The events of one segment file."""
    return [json.loads(line) for line in segment.read_text().splitlines() if line]


def reports(folder: Path) -> list[dict[str, Any]]:
    """A trial's reports by step; where an attempt repeated a step, the later attempt's.

    Where a trial went on from another one's checkpoint, its own reports beyond that are left out.
    """
    by_step: dict[int, dict[str, Any]] = {}
    for event in read_events(folder):
        if event["kind"] == "exploit":
            by_step = {step: report for step, report in by_step.items() if step <= event["step"]}
        elif event["kind"] == "report":
            by_step[event["step"]] = event
    return [by_step[step] for step in sorted(by_step)]


def lines(folder: Path) -> list[list[dict[str, Any]]]:
    """What a trial trained itself: its reports by step, anew from each checkpoint that it took over.

    Such a line begins with the take-over (`exploit`), which holds the metrics of the checkpoint.
    """
    found: list[dict[int, dict[str, Any]]] = [{}]
    for event in read_events(folder):
        if event["kind"] == "exploit":
            found.append({event["step"]: event} if "metrics" in event else {})
        elif event["kind"] == "report":
            found[-1][event["step"]] = event
    return [[line[step] for step in sorted(line)] for line in found]


def edits(folder: Path, until_step: int | None = None) -> list[dict[str, Any]]:
    """What grew and what was pruned, in order; `until_step` leaves out later reports."""
    kept = [r for r in reports(folder) if until_step is None or r["step"] <= until_step]
    return [edit for report in kept for edit in report["edits"]]


def findings(folder: Path) -> list[dict[str, Any]] | None:
    """What the preflight found before the first step; None where no report came."""
    told = reports(folder)
    return [f for report in told for f in report.get("findings", [])] if told else None


def num_failures(folder: Path) -> int:
    """Attempts at a trial that failed, crashed or lost their worker."""
    return sum(event["kind"] in FAILURES for event in read_events(folder))


def _names(events: Path) -> list[tuple[int, int]]:
    if not events.is_dir():
        return []
    stems = (path.stem for path in events.glob("*-*.jsonl"))
    return [(int(attempt), int(number)) for attempt, number in (stem.split("-") for stem in stems)]
