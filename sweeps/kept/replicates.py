"""Replicates: trainings of one configuration that differ in their seed alone, told together as their mean.

A configuration's replicates have the seeds from its own on, the same ones for every configuration of a sweep,
so that configurations are compared in pairs. With several, `SWEEP/NUMBER` holds what was given, the means and
how it ended; `SWEEP/NUMBER/REPLICATE`, from 0 on, holds each training's own events and checkpoints.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Metrics = Mapping[str, float]


def folders(trial: Path, num: int) -> list[Path]:
    """Where each of `num` trainings of a trial is kept: in the trial's own folder where there is one."""
    return [trial] if num == 1 else [trial / str(index) for index in range(num)]


def found(trial: Path) -> list[Path]:
    """Folders of a trial's replicates, in order; empty where it is trained once."""
    numbered = (path for path in trial.glob("*") if path.name.isdigit() and path.is_dir())
    return sorted(numbered, key=lambda path: int(path.name))


def config(trial: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The configuration (`TrialConfig.to_dict`) of one replicate: with its seed."""
    return {**copy.deepcopy(dict(trial)), "seed": trial["seed"] + index}


def mean(metrics: Sequence[Metrics]) -> dict[str, float]:
    """The mean of each metric that all replicates have; one replicate's own metrics are their mean."""
    if len(metrics) == 1:
        return dict(metrics[0])
    return {key: _mean([each[key] for each in metrics]) for key in _shared(metrics)}


def standard_errors(metrics: Sequence[Metrics]) -> dict[str, float]:
    """The standard error of each mean, from the sample deviation; empty for fewer than two replicates.

    NaN where a replicate's metric is not finite.
    """
    if len(metrics) < 2:
        return {}
    return {key: _standard_error([each[key] for each in metrics]) for key in _shared(metrics)}


def _mean(values: Sequence[float]) -> float:
    # fsum does not depend on the order of replicates, but raises for inf - inf where sum gives NaN.
    total = math.fsum(values) if all(map(math.isfinite, values)) else sum(values)
    return total / len(values)


def _standard_error(values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        return math.nan
    return statistics.stdev(values) / math.sqrt(len(values))


def _shared(metrics: Sequence[Metrics]) -> list[str]:
    return [key for key in metrics[0] if all(key in each for each in metrics[1:])]
