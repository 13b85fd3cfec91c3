"""The last lines of a sweep: what came out, and the commands that lead on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sweeps.kept.budget import limits
from sweeps.records import disk
from sweeps.run.result import Result
from sweeps.views import leaderboard, tables
from sweeps.views.command_line import relative, resume, root_option
from sweeps.views.words import duration

_MAX_ROWS = 20  # of the leaderboard


def closing(result: Result) -> list[str]:
    """What came out of a run of a sweep."""
    name, root = result.study.name, result.folder.parent
    took = f"{duration(result.seconds)}, {result.num_slots} slots {result.busy:.0%} busy training"
    counts = leaderboard.counts(result.study, disk.read_config(root, name).sweep.replicates)
    reached, known = leaderboard.reached_in(result.folder), disk.metrics_of(disk.read_plan(root, name))
    return [
        "",
        f"{name}  {counts}{_ended(result)}    {took}",
        *leaderboard.table(result.study, _MAX_ROWS, tables.terminal_width(), reached, known),
        *_next(result, name, root),
    ]


def _ended(result: Result) -> str:
    """Which budget ended the sweep, where its trials do not say so themselves."""
    others = replace(result.study.budget, num_trials=None)
    if result.interrupted or result.ended_by is None or not limits(others):
        return ""
    return f", ended by {result.ended_by}"


def _next(result: Result, name: str, root: Path) -> list[str]:
    lines, option = [], root_option(root)
    if result.best is not None:
        path = relative(result.best)
        lines.append(f"best: {path}     rerun: sweeps train best={path}")
    if result.failure is not None:
        lines.append(f"failed: {result.failure}")
    if result.interrupted:
        verb = "interrupted: continue" if result.failure is None else "correct that, and continue"
        lines.append(f"{verb} with  {resume(root, name)}")
    lines.append(f"look: sweeps show {name}{option}     sweeps ui {name}{option}")
    if result.complaint is not None:
        lines.append(
            f"MLflow did not answer ({result.complaint}): the records there are incomplete. All of them lie "
            f"in {relative(result.folder)}; {resume(root, name)} sends what is missing."
        )
    return lines
