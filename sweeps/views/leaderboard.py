"""Trials side by side: the table that ends a sweep and that `sweeps show` prints.

Where a configuration was trained with several seeds, its values are means over them, with their standard
errors; its edits are those of a training, as a rounded mean; its train FLOPs are what all of them spent. A
member of a population shows what it spent itself: what it took over stands with the one that trained it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from growcore import metrics
from growcore.metrics import METRICS, Metric, Place, Unit, label
from sweeps.kept.outcomes import outcome_so_far
from sweeps.kept.trials import Outcome, TrialRow, TrialState
from sweeps.search import Study
from sweeps.views.tables import columns, cut
from sweeps.views.words import chosen, edits_each, measured

Reached = Callable[[int], Outcome | None]  # of a trial by its number, while it runs

_TEST = "test/accuracy"
_FLOPS = "cost/train_flops"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of the leaderboard; None where a trial has no such value.

    Values are means over the replicates of a configuration, and errors their standard errors; there are none
    where it was trained once.
    """

    number: int
    state: str
    value: float | None  # the first objective
    error: float | None
    values: tuple[float, ...]  # of every objective, where the trial is complete
    errors: tuple[float, ...]
    violations: dict[str, float]  # broken constraint -> by how much, as a fraction of its limit
    test_accuracy: float | None
    test_error: float | None
    num_parameters: int | None
    num_nonzero: int | None
    train_flops: float | None  # that it executed itself, all replicates together
    metrics: dict[str, float]  # of the last report; means, train FLOPs too
    standard_errors: dict[str, float]  # of those that are means
    num_grown: int  # edits, in all replicates together
    num_pruned: int
    epoch: float
    chosen: str
    reason: str | None
    continued: str  # from which trials it went on and when: `continued #3 at 40%`; else empty
    replicates: tuple[dict[str, float], ...]  # objectives and test accuracy of each, by seed; empty where one

    @property
    def edits(self) -> str:
        """Edits that grew and edits that pruned, of one training: `6+ 4-`."""
        return edits_each(self.num_grown, self.num_pruned, len(self.replicates))


def entries(study: Study, reached: Reached | None = None) -> list[Entry]:
    """Complete trials as `Study.rank` orders them, then those stopped early, those that run or wait, those
    that were infeasible, those that failed.

    Args:
        study: whose trials.
        reached: what a trial has reached; those that run then show it.
    """
    by_state = {state: [r for r in study.rows() if r.state is state] for state in TrialState}
    if reached is not None:
        running = by_state[TrialState.running]
        by_state[TrialState.running] = [_so_far(row, study.metric, reached(row.number)) for row in running]
    ordered = study.rank() + [
        row
        for state in (
            TrialState.stopped,
            TrialState.running,
            TrialState.waiting,
            TrialState.infeasible,
            TrialState.failed,
        )
        for row in by_state[state]
    ]
    return [entry(row, list(study.goals.objectives)) for row in ordered]


def reached_in(sweep: Path) -> Reached:
    """What trials have reached, as the folder of their sweep tells."""
    return lambda number: outcome_so_far(sweep / str(number))


def _so_far(row: TrialRow, metric: str, outcome: Outcome | None) -> TrialRow:
    if outcome is None:
        return row
    return replace(row, outcome=outcome, value=outcome.metrics.get(metric))


def entry(row: TrialRow, objectives: Sequence[str]) -> Entry:
    """One trial's line.

    Args:
        row: of the trial.
        objectives: metrics that the sweep is for; the first ranks trials.
    """
    values, errors, trainings = row.outcome.metrics, row.outcome.errors, row.outcome.replicates
    return Entry(
        number=row.number,
        state=row.state.value,
        value=row.value,
        error=errors.get(objectives[0]),
        values=row.values,
        errors=tuple(errors[key] for key in objectives) if errors and row.values else (),
        violations=row.violations,
        test_accuracy=values.get(_TEST),
        test_error=errors.get(_TEST),
        num_parameters=_int(values.get("model/parameters")),
        num_nonzero=_int(values.get("model/nonzero_parameters")),
        train_flops=row.executed(_FLOPS) * max(1, len(trainings)) if _FLOPS in values else None,
        metrics=dict(values),
        standard_errors=dict(errors),
        num_grown=row.outcome.num_grown,
        num_pruned=row.outcome.num_pruned,
        epoch=row.outcome.epoch,
        chosen=chosen(row.params),
        reason=row.reason,
        continued=", ".join(change.told for change in row.changes),
        replicates=tuple({key: r[key] for key in (*objectives, _TEST) if key in r} for r in trainings),
    )


def table(
    study: Study,
    limit: int | None = None,
    width: int | None = None,
    reached: Reached | None = None,
    known: Mapping[str, Metric] = METRICS,
) -> list[str]:
    """The leaderboard as lines of text.

    Args:
        study: whose trials.
        limit: at most so many trials; None: all.
        width: characters a line may have; None: any number.
        reached: as in `entries`.
        known: the metrics of the sweep; the table of metrics says which have columns.
    """
    listed = entries(study, reached)
    shown = listed if limit is None else listed[:limit]
    always = metrics.shown(Place.leaderboard, known)
    several = any(e.replicates for e in listed)
    heads = [f"{m.label}, all seeds" if several and key == _FLOPS else m.label for key, m in always.items()]
    rows = [["#", label(study.metric, known), *heads, "edits", "what was chosen"]]
    rows += [_cells(e, study.metric, always) for e in shown]
    if len(study.goals.objectives) > 1:
        front = _objectives(study, shown, known)
        rows = [row[:2] + more + row[2:] for row, more in zip(rows, front, strict=True)]
    lines = columns(rows, left={len(rows[0]) - 1}, width=width)
    if len(shown) < len(listed):
        lines.append(cut(f"  ... and {len(listed) - len(shown)} more: sweeps show {study.name}", width))
    return lines


def _objectives(study: Study, shown: Sequence[Entry], known: Mapping[str, Metric]) -> list[list[str]]:
    """For the head and each entry: the further objectives that have no column, and the Pareto front."""
    keys, always = list(study.goals.objectives), metrics.shown(Place.leaderboard, known)
    more = [index for index in range(1, len(keys)) if keys[index] not in always]
    front = {row.number for row in study.front()}
    found = [[*(label(keys[index], known) for index in more), "front"]]
    for e in shown:
        values = [_objective(e, index) for index in more]
        found.append([*values, "*" if e.number in front else ""])
    return found


def _objective(e: Entry, index: int) -> str:
    if not e.values:
        return "-"
    return f"{e.values[index]:.6g}" + (f" ± {e.errors[index]:.2g}" if e.errors else "")


def _cells(e: Entry, metric: str, always: Mapping[str, Metric]) -> list[str]:
    remark = {
        "stopped": f"stopped at epoch {e.epoch:g}: ",
        "infeasible": f"{e.reason}; ",
        "failed": f"failed: {e.reason}; ",
        "running": f"running, epoch {e.epoch:g}: ",
        "waiting": "waiting: ",
    }
    broken = f"breaks {', '.join(e.violations)}: " if e.violations else ""
    return [
        str(e.number),
        _value(metric, e.value, e.error, always),
        *(_column(key, e, always) for key in always),
        e.edits,
        broken + remark.get(e.state, "") + (f"{e.continued}: " if e.continued else "") + e.chosen,
    ]


def _column(key: str, e: Entry, always: Mapping[str, Metric]) -> str:
    value = e.train_flops if key == _FLOPS else e.metrics.get(key)
    is_a_score = always[key].unit in (Unit.fraction, Unit.nats)
    return _value(key, value, e.standard_errors.get(key) if is_a_score else None, always)


def _value(key: str, value: float | None, error: float | None, known: Mapping[str, Metric]) -> str:
    if value is None:
        return "-"
    return measured(value, error) if error is not None else metrics.written(key, value, known)


def counts(study: Study, num_replicates: int = 1) -> str:
    """`64 trials: 41 complete, 22 stopped early, 1 failed`; also says with how many seeds, where several."""
    num = study.summary().num_trials
    states = (
        TrialState.complete,
        TrialState.stopped,
        TrialState.infeasible,
        TrialState.failed,
        TrialState.running,
        TrialState.waiting,
    )
    parts = [
        f"{num[state]} {'stopped early' if state is TrialState.stopped else state.value}"
        for state in states
        if num[state] or state is TrialState.complete
    ]
    total = sum(num.values())
    seeds = f" with {num_replicates} seeds each (mean ± standard error)" if num_replicates > 1 else ""
    return f"{total} trial{'s' if total != 1 else ''}{seeds}: {', '.join(parts)}"


def _int(value: float | None) -> int | None:
    return None if value is None else int(value)
