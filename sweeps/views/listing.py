"""All sweeps of a storage root, a line each."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.kept.trials import StudyRow, TrialState
from sweeps.views.tables import columns

_STATES = (
    TrialState.complete,
    TrialState.stopped,
    TrialState.infeasible,
    TrialState.failed,
    TrialState.running,
)


def table(sweeps: Sequence[tuple[StudyRow, str]]) -> list[str]:
    """Lines of sweeps, each with its status in words."""
    heads = ["sweep", "status", "started", "trials", *(state.value for state in _STATES), "best", "by"]
    return columns([heads, *(_cells(row, status) for row, status in sweeps)], left={0, 1, len(heads) - 1})


def _cells(row: StudyRow, status: str) -> list[str]:
    return [
        row.name,
        status,
        f"{row.started:%Y-%m-%d %H:%M}" if row.started else "-",
        f"{sum(row.num_trials.values())}" + ("" if row.budget is None else f"/{row.budget}"),
        *(str(row.num_trials[state]) for state in _STATES),
        "-" if row.best is None else f"{row.best:.4f}",
        row.metric,
    ]
