"""Which trials of a sweep are best: pure functions of its rows."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.kept.trials import TrialRow, TrialState
from sweeps.search.goals import Goals


def front(rows: Sequence[TrialRow], goals: Goals) -> list[TrialRow]:
    """Complete trials that keep every constraint and that no other such trial beats.

    Beaten is who is no better in any objective and worse in one. Best first by the first objective.
    """
    kept = [row for row in _complete(rows, goals) if not row.violations]
    if len(goals.objectives) == 1:
        return kept[:1]
    return [kept[index] for index in goals.front([row.values for row in kept])]


def rank(rows: Sequence[TrialRow], goals: Goals) -> list[TrialRow]:
    """Complete trials: the front, those it beats by the first objective, those that break constraints.

    Ties keep the order of their numbers.
    """
    complete, leading = _complete(rows, goals), front(rows, goals)
    ahead = {row.number for row in leading}
    behind = [row for row in complete if not row.violations and row.number not in ahead]
    broken = [row for row in complete if row.violations]
    return leading + behind + sorted(broken, key=lambda row: sum(row.violations.values()))


def best(rows: Sequence[TrialRow], goals: Goals) -> TrialRow | None:
    """The complete trial with the best first objective among those that keep every constraint."""
    return next((row for row in _complete(rows, goals) if not row.violations), None)


def _complete(rows: Sequence[TrialRow], goals: Goals) -> list[TrialRow]:
    complete = [row for row in rows if row.state is TrialState.complete]
    sign = -1.0 if goals.objectives[goals.metric] == "maximize" else 1.0
    return sorted(complete, key=lambda row: sign * (row.value or 0.0))
