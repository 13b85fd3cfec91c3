"""What is said of a best file that was written: which trial it holds, and how to run it."""

from __future__ import annotations

from pathlib import Path

from growcore.metrics import label
from sweeps.kept.trials import TrialRow
from sweeps.records import best
from sweeps.search import Study
from sweeps.views import leaderboard
from sweeps.views.words import measured


def lines(study: Study, row: TrialRow, path: Path, rerun: str, *, is_chosen: bool) -> list[str]:
    """The trial and its file.

    Args:
        study: of the sweep.
        row: the trial.
        path: its best file.
        rerun: the command that trains it again.
        is_chosen: whether a person chose the trial; others of the Pareto front are named where not.
    """
    e = leaderboard.entry(row, list(study.goals.objectives))
    others = [str(r.number) for r in study.front() if r.number != row.number]
    found = [
        f"trial {row.number} of {study.name}: {label(study.metric)} {measured(e.value, e.error)}, {e.chosen}",
        f"saved: {path}     rerun: {rerun}",
    ]
    if len(study.goals.objectives) > 1 and not is_chosen and others:
        rule = f"It has the best {study.metric} of the Pareto front; others of it: --trial "
        found.append(rule + ", ".join(others))
    return [*found, *(line for line in (best.seeds(row), best.caution(row)) if line is not None)]
