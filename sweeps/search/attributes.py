"""What a study keeps of itself beside its trials: what it is for, and what it may spend."""

from __future__ import annotations

from typing import Any

import optuna

from sweeps.kept.budget import Budget
from sweeps.search.goals import Constraint, Goals

FORMAT = 1  # of the user attributes written here


def note(study: optuna.Study, **attrs: Any) -> None:
    """Keep plain values under their names."""
    for key, value in attrs.items():
        study.set_user_attr(key, value)


def note_goals(study: optuna.Study, goals: Goals) -> None:
    """Keep objectives, whose directions are the study's own, and constraints."""
    constraints = [[c.metric, f"{c.operator} {c.limit!r}"] for c in goals.constraints]
    note(study, format=FORMAT, objectives=list(goals.objectives), constraints=constraints)


def read_goals(study: optuna.Study) -> Goals:
    """What the study is for."""
    attrs = study.user_attrs
    directions = (direction.name.lower() for direction in study.directions)
    return Goals(
        objectives=dict(zip(attrs["objectives"], directions, strict=True)),
        constraints=tuple(Constraint.read(metric, text) for metric, text in attrs["constraints"]),
    )


def read_budget(study: optuna.Study) -> Budget:
    """What the sweep may spend, as of now."""
    noted = study.user_attrs["budget"]
    return Budget(num_trials=noted) if isinstance(noted, int) else Budget(**noted)  # older: trials alone
