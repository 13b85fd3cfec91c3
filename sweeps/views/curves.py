"""A metric over the train FLOPs spent on it, read from run folders; what `sweeps compare` compares.

A trial's curve is its metric at each report, straight in between; a trial with replicates has one for each
seed. A sweep's curve is the best metric that any of its trials had reported by the time all of them together
had spent so much; it stays until it is beaten. With replicates that metric is their mean, and all of them
have spent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sweeps.config.errors import ConfigError
from sweeps.config.settings import Direction
from sweeps.kept import events, replicates
from sweeps.records.disk import read_config

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

    name: str  # SWEEP, SWEEP/NUMBER or SWEEP/NUMBER/REPLICATE
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
    """Read `SWEEP`, `SWEEP/NUMBER` or `SWEEP/NUMBER/REPLICATE` under a storage root.

    Of SWEEP/NUMBER every seed is read: its replicates, or in a sweep without replicates the trials that
    differ from it in their seed alone.

    Raises:
        ConfigError: there is no such sweep, trial or replicate, or it has reported nothing.
    """
    sweep, *parts = name.split("/", 2)
    config = read_config(root, sweep)
    metric, maximize = config.search.metric, config.search.direction is Direction.maximize
    if not parts:
        curve, ends = _sweep_curve(root / sweep, metric, maximize, config.sweep.replicates)
        curves, seed = {config.search.seed: curve}, config.search.seed
    else:
        trainings = _trainings(root / sweep, *parts)
        curves, seed = _by_seed(trainings, metric), _seed(trainings[0])
        if seed not in curves:
            raise ConfigError(f"{name} has reported nothing that could be compared.")
        ends = curves[seed].flops_N.tolist()
    return Subject(
        name=name, metric=metric, maximize=maximize, curves=curves, seed=seed, checkpoints=tuple(ends)
    )


def _trainings(sweep: Path, number: str, replicate: str | None = None) -> list[Path]:
    """Folders of the trainings of one configuration, each with another seed; first the one asked for."""
    trials = _trials(sweep)
    trial = _named(number, trials)
    if trial is None:
        known = _names(trials) or "none yet"
        raise ConfigError(f"{sweep.name} has no trial '{number}' to compare. Its trials: {known}.")
    found = [folder for folder in replicates.found(trial) if (folder / events.GIVEN).exists()]
    if replicate is None:
        return found or _differing_in_seed(trial)
    named = _named(replicate, found)
    if named is None:
        known = _names(found) or f"none, as {sweep.name}/{number} is trained once"
        raise ConfigError(
            f"{sweep.name}/{number} has no replicate '{replicate}' to compare. Its replicates: {known}."
        )
    return [named]


def _named(name: str, folders: list[Path]) -> Path | None:
    return next((f for f in folders if f.name == name and (f / events.GIVEN).exists()), None)


def _names(folders: list[Path]) -> str:
    return ", ".join(folder.name for folder in folders)


def _differing_in_seed(trial: Path) -> list[Path]:
    """A trial, then the complete ones of its sweep that differ from it and each other in their seed alone."""
    config, found = _config(trial), {_seed(trial): trial}
    for folder in _trials(trial.parent):
        if _has_ended(folder) and _config(folder) | {"seed": config["seed"]} == config:
            found.setdefault(_seed(folder), folder)
    return list(found.values())


def _by_seed(trainings: list[Path], metric: str) -> dict[int, Curve]:
    """The curve of each that has reported something."""
    read = {_seed(folder): _trial_curve(folder, metric) for folder in trainings}
    return {seed: curve for seed, curve in read.items() if curve is not None}


def _config(folder: Path) -> dict[str, Any]:
    """What a trial or replicate was given; empty where that was not written."""
    return dict((events.read_json(folder / events.GIVEN) or {}).get("config", {}))


def _seed(folder: Path) -> int:
    return int(_config(folder)["seed"])


def _trial_curve(folder: Path, metric: str) -> Curve | None:
    reports = events.reports(folder)
    if not reports:
        return None
    flops, values = zip(*((_metric(r, _COST), _metric(r, metric)) for r in reports), strict=True)
    return Curve(flops_N=np.array(flops), values_N=np.array(values), is_step=False)


def _sweep_curve(folder: Path, metric: str, maximize: bool, num_replicates: int) -> tuple[Curve, list[float]]:
    """The best so far over the FLOPs of all trials together, and those FLOPs where trials ended.

    What a lost worker trained twice counts once, and so does what a trial took over from another.
    """
    reported = sorted(r for trial in _trials(folder) for r in _increments(events.lines(trial), metric))
    if not reported:
        raise ConfigError(f"No trial of {folder.name} has reported anything that could be compared.")
    _, increments, values, last = zip(*reported, strict=True)
    spent_N = num_replicates * np.cumsum(increments)
    best_N = (np.maximum if maximize else np.minimum).accumulate(values)
    return Curve(flops_N=spent_N, values_N=best_N, is_step=True), spent_N[np.array(last)].tolist()


def _increments(lines: list[list[dict[str, Any]]], metric: str) -> Iterator[tuple[float, float, float, bool]]:
    """Of each report: time, FLOPs since the one before, metric, whether it is its trial's last."""
    last = next((e for line in reversed(lines) for e in reversed(line) if e["kind"] == "report"), None)
    for line in lines:
        before = 0.0
        for event in line:
            spent = _metric(event, _COST)
            if event["kind"] == "report":
                yield event["time"], spent - before, _metric(event, metric), event is last
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
