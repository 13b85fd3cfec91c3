"""From Optuna's trials to rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from sweeps.kept.trials import Assignment, Change, Outcome, TrialRow, TrialState

# User attributes of trials that are not the sweep's own: where it comes from, or whom it repeats
EARLIER, DUPLICATE = "earlier", "duplicate"
CHANGES = "changes"  # user attribute: Change.to_dict of each

_STATES = {
    optuna.trial.TrialState.RUNNING: TrialState.running,
    optuna.trial.TrialState.WAITING: TrialState.waiting,
    optuna.trial.TrialState.COMPLETE: TrialState.complete,
    optuna.trial.TrialState.PRUNED: TrialState.stopped,
    optuna.trial.TrialState.FAIL: TrialState.failed,
}


def is_foreign(trial: FrozenTrial) -> bool:
    """Whether a trial is of an earlier sweep, or repeats a configuration."""
    return EARLIER in trial.user_attrs or DUPLICATE in trial.user_attrs


def read_row(trial: FrozenTrial, metric: str) -> TrialRow:
    """A trial as plain values; `metric` is the first objective."""
    given = read_given(trial)
    ended: Mapping[str, Any] = json.loads(trial.user_attrs.get("ended", "{}"))
    outcome = Outcome(**ended.get("outcome", {}))
    changes = read_changes(trial)
    given = changes[-1].to_dict() if changes else given
    return TrialRow(
        number=trial.number,
        state=_state(trial, ended),
        reason=ended.get("reason"),
        params=given.get("params", {}),
        overrides=given.get("overrides", []),
        config=given.get("config", {}),
        value=_value(trial, outcome, metric),
        values=tuple(trial.values) if trial.state is optuna.trial.TrialState.COMPLETE else (),
        violations={key: value for key, value in trial.constraints.items() if value > 0},
        outcome=outcome,
        started=trial.datetime_start,
        ended=trial.datetime_complete,
        changes=changes,
    )


def read_given(trial: FrozenTrial) -> Mapping[str, Any]:
    """What a trial was given at first: params, overrides and config."""
    return dict(json.loads(trial.user_attrs.get("given", "{}")))


def read_changes(trial: FrozenTrial) -> tuple[Change, ...]:
    """What it went on from since."""
    return tuple(Change(**change) for change in json.loads(trial.user_attrs.get(CHANGES, "[]")))


def as_changed(assignment: Assignment, changes: Sequence[Change]) -> Assignment:
    """A trial as it goes on after its changes."""
    if not changes:
        return assignment
    last = changes[-1]
    return Assignment(
        number=assignment.number, params=last.params, overrides=last.overrides, config=last.config
    )


def _state(trial: FrozenTrial, ended: Mapping[str, Any]) -> TrialState:
    if trial.state is optuna.trial.TrialState.PRUNED and ended.get("infeasible"):
        return TrialState.infeasible
    return _STATES[trial.state]


def _value(trial: FrozenTrial, outcome: Outcome, metric: str) -> float | None:
    if trial.state is optuna.trial.TrialState.COMPLETE:
        return float(trial.values[0])
    if trial.state is not optuna.trial.TrialState.PRUNED:
        return None
    last = trial.last_step
    return outcome.metrics.get(metric) if last is None else trial.intermediate_values[last]
