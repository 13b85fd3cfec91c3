"""What stops weak trials early: Ray's schedulers over fractions of a full trial; decisions only.

What a full trial is, `sweeps.stopping.fidelity` says. Every report brings what its
size is, so a scheduler works from the first one on, and the driver needs no torch to know it.

[Li2020] A System for Massively Parallel Hyperparameter Tuning (ASHA), MLSys 2020, arXiv:1810.05934.
[Golovin2017] Google Vizier: the median stopping rule, KDD 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from sweeps.config.settings import Direction, SchedulerName, SweepConfig
from sweeps.kept.endings import Ending
from sweeps.stopping.earlier import earlier
from sweeps.stopping.fidelity import METRICS, EditGrace, Scale, num_edits
from sweeps.trial.job import ROUNDING

_FRACTION = "fraction"  # of a full trial; what the inner scheduler goes by


OnDeath = Callable[[Trial], None]


def scheduler(config: SweepConfig, on_death: OnDeath) -> FirstInFirstOut:
    """What stops weak trials. Population-based training stops none: see `sweeps.stopping.population`.

    Args:
        config: of the sweep.
        on_death: told of a trial whose worker is gone, before its searcher is.
    """
    name = config.scheduler.name
    if name in (SchedulerName.none, SchedulerName.pbt):
        return FirstInFirstOut(on_death)
    inner = _median(config) if name is SchedulerName.median else _halving(config)
    return EarlyStopping(config, inner, on_death)


def _halving(config: SweepConfig) -> AsyncHyperBandScheduler:
    """Rungs lie at the grace and at its multiples by powers of the reduction factor.

    With several brackets a trial is put into one of them at random; the first rung of the bracket b is the
    b-th of these rungs, and a bracket whose first rung lies beyond a full trial stops nothing.
    """
    told = config.scheduler
    return AsyncHyperBandScheduler(
        **_compared_by(config),
        max_t=1.0,  # type: ignore[arg-type]  # any number
        grace_period=told.grace,  # type: ignore[arg-type]
        reduction_factor=told.reduction_factor,
        brackets=told.num_brackets if told.name is SchedulerName.hyperband else 1,
        # A trial that grew costs more than the base: past the last rung it runs to its own end.
        stop_last_trials=False,
    )


def _median(config: SweepConfig) -> MedianStoppingRule:
    """Stops a trial whose best value is below the median of what others averaged up to the same fraction."""
    return MedianStoppingRule(
        **_compared_by(config),
        grace_period=config.scheduler.grace,
        min_time_slice=float("inf"),  # type: ignore[arg-type]  # no trial is paused for another
    )


def _compared_by(config: SweepConfig) -> dict[str, Any]:
    maximize = config.search.direction is Direction.maximize
    metric = f"{METRICS}/{config.search.metric}"
    return {"time_attr": _FRACTION, "metric": metric, "mode": "max" if maximize else "min"}


class FirstInFirstOut(FIFOScheduler):
    """Stops nothing; says why a worker is gone, which Tune tells its schedulers first and best."""

    def __init__(self, on_death: OnDeath) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_death = on_death

    def recall(self, sweep: Path) -> None:
        """Let what trials reported to earlier drivers, in the sweep's folder, count as it did then."""

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Pass it on."""
        self._on_death(trial)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # disposable, like all of Tune's state


@dataclass(frozen=True, slots=True)
class _Known:
    """A trial of ours, whichever attempt at it is Tune's trial now: all that Ray's schedulers ask of one."""

    trial_id: str


class EarlyStopping(FirstInFirstOut):
    """Lets one of Ray's schedulers judge trials at fractions of a full trial, outside their edit windows.

    In a window a report is neither compared nor counted: the value a trial has while it recovers would
    lower the bar for others. A trial that is tried again is the same one: it is compared once at a rung.
    """

    def __init__(self, config: SweepConfig, inner: TrialScheduler, on_death: OnDeath) -> None:
        super().__init__(on_death)
        self._inner = inner
        self._scale = Scale(config, config.scheduler.grace)
        self._grace = EditGrace(config.scheduler.edit_grace)
        self._metric = f"{METRICS}/{config.search.metric}"
        self._known: set[_Known] = set()

    def recall(self, sweep: Path) -> None:
        """Put the rungs and medians back that a driver took with it."""
        for number, result in earlier(sweep):
            self._add(_Known(str(number)))
            if result["ending"] == Ending.finished:
                self._complete(_Known(str(number)), result)
            else:
                self._decide(_Known(str(number)), result)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Hand the trial on, once."""
        self._add(_known(trial))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """The inner scheduler's decision; CONTINUE in a window."""
        return self._decide(_known(trial), result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Let the last result of a finished trial count; that of a stopped one did already."""
        if result.get("ending") == Ending.finished:
            self._complete(_known(trial), result)

    def _add(self, trial: _Known) -> None:
        if trial not in self._known:
            self._known.add(trial)
            self._inner.on_trial_add(None, trial)  # type: ignore[arg-type]

    def _decide(self, trial: _Known, result: dict[str, Any]) -> str:
        judged = self._judged(trial, result)
        if judged is None:
            return TrialScheduler.CONTINUE
        return str(self._inner.on_trial_result(None, trial, judged))  # type: ignore[arg-type]

    def _complete(self, trial: _Known, result: dict[str, Any]) -> None:
        if (judged := self._judged(trial, result)) is not None:
            self._inner.on_trial_complete(None, trial, judged)  # type: ignore[arg-type]

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing: the sweep ends, or another attempt follows."""

    def _judged(self, trial: _Known, result: dict[str, Any]) -> dict[str, Any] | None:
        """The result with its fraction; None where it does not count."""
        if self._metric not in result:  # a failure
            return None
        fraction = self._scale.fraction(trial.trial_id, result)
        if self._grace.holds(trial.trial_id, fraction, num_edits(result)):
            return None
        return {**result, _FRACTION: fraction * ROUNDING}


def _known(trial: Trial) -> _Known:
    return _Known(str(trial.config["job"]["number"]))
