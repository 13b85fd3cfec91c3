"""The best configuration of a sweep as a file that runs again.

A best file holds a whole trial and, under `recorded`, where it came from and what it reached there. Trials
are ranked by their validation metric; test metrics are shown, never used.

Of a configuration that was trained with several seeds, the file trains the first, and `recorded.metrics` are
that training's, so that training it again compares like with like; the means over all seeds stand beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from growcore.metrics import Place, shown
from sweeps.config.errors import ConfigError
from sweeps.kept.trials import Change, TrialRow, TrialState
from sweeps.search import Study


def pick(study: Study, number: int | None = None) -> TrialRow:
    """The best complete trial, or the one of this number.

    Raises:
        ConfigError: no trial is complete, or there is no such complete trial.
    """
    if number is None:
        found = study.best()
        if found is None:
            kept = " and keeps every constraint" if study.goals.constraints else ""
            raise ConfigError(
                f"No trial of {study.name} is complete{kept}, so none is best. See: sweeps show {study.name}"
            )
        return found
    try:
        row = study.row(number)
    except KeyError as error:
        raise ConfigError(str(error.args[0])) from None
    if row.state is not TrialState.complete:
        raise ConfigError(
            f"Trial {number} of {study.name} is {row.state}, not complete: it has no final result."
        )
    return row


def document(study: Study, row: TrialRow) -> dict[str, Any]:
    """The contents of a best file."""
    trainings = row.outcome.replicates
    metrics = trainings[0] if trainings else row.outcome.metrics
    return {
        **row.config,
        "recorded": {
            "sweep": study.name,
            "trial": row.number,
            "metric": study.metric,
            "value": row.value,
            "overrides": row.overrides,
            "metrics": {key: metrics[key] for key in _kept(study) if key in metrics},
            **(_means(study, row) if trainings else {}),
            **({"population": [_change(change) for change in row.changes]} if row.changes else {}),
        },
    }


def _kept(study: Study) -> list[str]:
    """The metrics that a best file holds: what the sweep was for, and what people compare."""
    return list(dict.fromkeys((*study.goals.objectives, *shown(Place.best))))


def _means(study: Study, row: TrialRow) -> dict[str, Any]:
    means, errors = row.outcome.metrics, row.outcome.errors
    keys = [key for key in _kept(study) if key in means]
    return {
        "replicates": len(row.outcome.replicates),
        "means": {key: means[key] for key in keys},
        "standard_errors": {key: errors[key] for key in keys},
    }


def seeds(row: TrialRow) -> str | None:
    """Which of its seeds a trial's best file trains; None where it was trained with one alone."""
    if (num := len(row.outcome.replicates)) < 2:
        return None
    first = row.config["seed"]
    last = first + num - 1
    return f"The file trains seed {first}; the trial's values are means over seeds {first} to {last}."


def _change(change: Change) -> dict[str, Any]:
    return {
        "continued": change.donor,
        "from_fraction": change.donor_fraction,  # of a full trial, that the checkpoint had reached
        "overrides": change.overrides,  # from there on
    }


def caution(row: TrialRow) -> str | None:
    """Why training a trial's configuration again does not give its result; None where it does."""
    if not row.changes:
        return None
    line = ", ".join(f"#{change.donor} at {change.donor_fraction:.0%}" for change in row.changes)
    return (
        f"Trial {row.number} went on from checkpoints of other trials ({line}), so training its last "
        "configuration from the beginning gives another result."
    )


def export(study: Study, row: TrialRow, path: Path) -> Path:
    """Write a trial's best file; it runs by `sweeps train best=PATH`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = f"# Trial {row.number} of the sweep {study.name}. Run it again: sweeps train best={path}\n"
    for line in (seeds(row), caution(row)):
        header += "" if line is None else f"# {line}\n"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(header + yaml.safe_dump(document(study, row), sort_keys=False))
    return temporary.replace(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One metric of a retraining beside the one that was recorded."""

    metric: str
    now: float
    recorded: float | None


def compare(metrics: dict[str, float], recorded: dict[str, Any] | None) -> list[Compared]:
    """The metrics people ask for, new beside recorded."""
    known = recorded or {}
    before, ranked = known.get("metrics", {}), known.get("metric")
    return [
        Compared(metric=key, now=metrics[key], recorded=before.get(key))
        for key in dict.fromkeys((*shown(Place.best), *([] if ranked is None else [ranked])))
        if key in metrics
    ]
