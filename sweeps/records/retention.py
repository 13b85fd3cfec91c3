"""Which checkpoints are worth their bytes: of trials that still run, and of the best that ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from sweeps.kept import events, replicates
from sweeps.kept.trials import TrialRow
from sweeps.search import Study


def dispensable(study: Study, keep: int) -> list[TrialRow]:
    """Trials whose checkpoints may go: they ended, and are neither of the best nor of the Pareto front.

    Args:
        study: whose trials.
        keep: so many of the best stay.
    """
    kept = {row.number for row in [*study.rank()[:keep], *study.front()]}
    return [row for row in study.rows() if row.state.has_ended and row.number not in kept]


def collect(study: Study, folder: Path, keep: int, dry_run: bool = False) -> int:
    """Remove the checkpoints of dispensable trials; doing it again removes nothing.

    Args:
        study: of the sweep; it may be running.
        folder: of the sweep.
        keep: checkpoints of so many of the best trials stay.
        dry_run: only count.

    Returns:
        Bytes freed, or to be freed.
    """
    freed = 0
    for row in dispensable(study, keep):
        trial = folder / str(row.number)
        for checkpoints in list(_checkpoint_folders(trial)):
            freed += size(checkpoints)
            if not dry_run:
                shutil.rmtree(checkpoints)
        if not dry_run:
            _unclaim(trial)
    return freed


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _checkpoint_folders(trial: Path) -> Iterator[Path]:
    """The trial's own, and those of its replicates."""
    for folder in (trial, *replicates.found(trial)):
        if (folder / "checkpoints").is_dir():
            yield folder / "checkpoints"


def _unclaim(trial: Path) -> None:
    """Nobody shall look for a checkpoint that is gone."""
    outcome = events.read_json(trial / events.OUTCOME)
    if outcome is not None and outcome.get("checkpoint") is not None:
        events.write_json(trial / events.OUTCOME, {**outcome, "checkpoint": None})
