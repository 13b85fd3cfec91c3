"""A metric over the train FLOPs spent on it, read from run folders; what `sweeps compare` compares.

A trial's curve is its metric at each report, straight in between. A sweep's curve is the best metric that any
of its trials had reported by the time all of them together had spent so much; it stays until it is beaten.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sweeps import events
from sweeps.config import Direction, SweepConfig
from sweeps.schema import ConfigError
from sweeps.sweep import read_plan

_COST = "cost/train_flops"
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Curve:
    """A metric over cumulative train FLOPs."""

    flops_N: Values  # rising
    values_N: Values
    is_step: bool  # a value holds until the next one; otherwise straight lines lead from one to the next

    def at(self, flops: Sequence[float] | Values) -> Values:
        """The metric at these train FLOPs, each between the curve's first and last."""
        if self.is_step:
            return self.values_N[np.searchsorted(self.flops_N, flops, side="right") - 1]
        return np.interp(flops, self.flops_N, self.values_N)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """One of two things that are compared."""

    name: str  # SWEEP or SWEEP/NUMBER
    metric: str
    maximize: bool
    curves: dict[int, Curve]  # by seed; the seed of the search where it is a sweep
    seed: int  # of the curve that was asked for
    checkpoints: tuple[float, ...]  # train FLOPs at which a sweep's trials ended, or the trial reported

    @property
    def is_sweep(self) -> bool:
        """Whether it is a whole sweep."""
        return "/" not in self.name


def read_subject(root: Path, name: str) -> Subject:
    """Read `SWEEP` or `SWEEP/NUMBER` under a storage root.

    Trials of the sweep that differ from SWEEP/NUMBER in their seed alone are its replicates.

    Raises:
        ConfigError: there is no such sweep or trial, or it has reported nothing.
    """
    sweep, slash, number = name.partition("/")
    config = SweepConfig.from_dict(read_plan(root, sweep)["config"])
    metric, maximize = config.search.metric, config.search.direction is Direction.maximize
    if not slash:
        curve, ends = _sweep_curve(root / sweep, metric, maximize)
        curves, seed = {config.search.seed: curve}, config.search.seed
    else:
        curves, seed = _replicates(root / sweep, number, metric)
        ends = curves[seed].flops_N.tolist()
    return Subject(
        name=name, metric=metric, maximize=maximize, curves=curves, seed=seed, checkpoints=tuple(ends)
    )


def _replicates(sweep: Path, number: str, metric: str) -> tuple[dict[int, Curve], int]:
    """Curves of the trials that differ from this one in their seed alone, by seed; and its own seed."""
    given = events.read_json(sweep / number / events.GIVEN) if number.isdigit() else None
    if given is None:
        known = ", ".join(folder.name for folder in _trials(sweep)) or "none yet"
        raise ConfigError(f"{sweep.name} has no trial '{number}' to compare. Its trials: {known}.")
    seed = int(given["config"]["seed"])
    curves = {seed: _trial_curve(sweep / number, metric)}
    for folder in _trials(sweep):
        other = (events.read_json(folder / events.GIVEN) or given)["config"]
        if {**other, "seed": seed} == given["config"] and other["seed"] not in curves and _has_ended(folder):
            curves[int(other["seed"])] = _trial_curve(folder, metric)
    return curves, seed


def _trial_curve(folder: Path, metric: str) -> Curve:
    reports = events.reports(folder)
    if not reports:
        raise ConfigError(f"{folder.parent.name}/{folder.name} has reported nothing that could be compared.")
    flops, values = zip(*((_metric(r, _COST), _metric(r, metric)) for r in reports), strict=True)
    return Curve(flops_N=np.array(flops), values_N=np.array(values), is_step=False)


def _sweep_curve(folder: Path, metric: str, maximize: bool) -> tuple[Curve, list[float]]:
    """The best so far over the FLOPs of all trials together, and those FLOPs where trials ended.

    What a lost worker trained twice counts once.
    """
    reported = sorted(r for trial in _trials(folder) for r in _increments(events.reports(trial), metric))
    if not reported:
        raise ConfigError(f"No trial of {folder.name} has reported anything that could be compared.")
    _, increments, values, last = zip(*reported, strict=True)
    spent_N = np.cumsum(increments)
    best_N = (np.maximum if maximize else np.minimum).accumulate(values)
    return Curve(flops_N=spent_N, values_N=best_N, is_step=True), spent_N[np.array(last)].tolist()


def _increments(reports: list[dict[str, Any]], metric: str) -> Iterator[tuple[float, float, float, bool]]:
    """Of each report: time, FLOPs since the one before, metric, whether it is its trial's last."""
    before = 0.0
    for report in reports:
        spent = _metric(report, _COST)
        yield report["time"], spent - before, _metric(report, metric), report is reports[-1]
        before = spent


def _metric(report: dict[str, Any], key: str) -> float:
    value = report["metrics"].get(key, math.nan)
    if not math.isfinite(value):
        raise ConfigError(
            f"A report of step {report['step']} has no finite {key}: there is nothing to compare."
        )
    return float(value)


def _trials(sweep: Path) -> list[Path]:
    return sorted((f for f in sweep.iterdir() if f.name.isdigit()), key=lambda folder: int(folder.name))


def _has_ended(trial: Path) -> bool:
    outcome = events.read_json(trial / events.OUTCOME)
    return outcome is not None and outcome["state"] == "complete"
