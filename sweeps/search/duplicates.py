"""Configurations that a sweep has had, so that none is trained twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from sweeps.search.frozen import DUPLICATE, is_foreign, read_given


class Configurations:
    """Which trial of the sweep's own has which configuration; read from the study once."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._numbers: dict[str, int] | None = None  # by fingerprint

    def first_with(self, config: Mapping[str, Any], number: int) -> int:
        """The trial that has this configuration: an earlier one, else `number`, from now on."""
        if self._numbers is None:
            self._numbers = {}
            for trial in self._study.get_trials(deepcopy=False):
                if not is_foreign(trial) and (given := read_given(trial).get("config")):
                    self._numbers.setdefault(_fingerprint(given), trial.number)
        return self._numbers.setdefault(_fingerprint(config), number)


def tell_duplicate(study: optuna.Study, trial: optuna.trial.Trial, known: FrozenTrial) -> None:
    """End a trial whose configuration another trial has: the sampler is told that one's result again."""
    trial.set_user_attr(DUPLICATE, known.number)
    for key, violation in known.constraints.items():
        trial.set_constraint(key, violation)
    for step, value in known.intermediate_values.items():
        trial.report(value, step)
    if known.state is optuna.trial.TrialState.COMPLETE:
        study.tell(trial, values=known.values)
    elif known.state is optuna.trial.TrialState.PRUNED:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _fingerprint(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
