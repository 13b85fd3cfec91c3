"""The one Ray Tuner of a run: searcher, scheduler, resources, callbacks; its own state is thrown away."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from sweeps import events
from sweeps.cluster import num_slots, scratch
from sweeps.config import Direction, Fidelity, SchedulerConfig, SchedulerName, SweepConfig
from sweeps.monitor import Monitor, Stop
from sweeps.search import Assignment, Space, Study
from sweeps.searcher import METRICS, Goal, StudySearcher
from sweeps.trial import Job, SweepTrial

MAX_WORKER_DEATHS = 2  # a trial whose worker died continues from its checkpoint so often

_NOT_OF_A_TRIAL = ("sweep", "space", "search", "scheduler", "tracking", "storage")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a run of a sweep works with."""

    config: SweepConfig
    folder: Path  # of the sweep, absolute
    workdir: str  # relative paths of a trial start here


def fit(
    setting: Setting,
    study: Study,
    space: Space,
    monitor: Monitor,
    stop: Stop,
    trainable: type[Any] | None = None,
) -> None:
    """Run trials until a budget is spent, or until `stop` is asked for."""
    cluster = setting.config.cluster

    def job(assignment: Assignment) -> dict[str, Any]:
        monitor.started(assignment)
        return _job(setting, assignment)

    searcher = StudySearcher(
        study,
        space,
        Goal(fidelity=fidelity_key(setting.config.scheduler)),
        job=job,
        capacity=lambda: num_slots(cluster),
        on_end=monitor.ended,
        failure=monitor.failure,
        say=monitor.say,
    )
    monitor.adopt(searcher.adopted)
    resources = {"cpu": cluster.cpus_per_trial, "gpu": cluster.gpus_per_trial}
    tune.Tuner(
        tune.with_resources(trainable or SweepTrial, resources),
        tune_config=tune.TuneConfig(
            num_samples=-1,  # the searcher says when it is enough
            search_alg=searcher,
            scheduler=scheduler(setting.config),
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="state",
            storage_path=str(scratch(setting.folder)),
            callbacks=[_Callback(monitor)],
            failure_config=tune.FailureConfig(max_failures=MAX_WORKER_DEATHS),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            stop=_Stopper(stop),
            verbose=0,
        ),
    ).fit()


def fidelity_key(config: SchedulerConfig) -> str:
    """The result key that says how far a trial came."""
    return "epoch" if config.fidelity is Fidelity.epoch else f"{METRICS}/cost/{config.fidelity}"


def scheduler(config: SweepConfig) -> TrialScheduler:
    """What stops weak trials: rungs lie at grace * full and at its multiples by powers of the reduction
    factor, where full is the fidelity of a whole trial of the base configuration.
    """
    if config.scheduler.name is SchedulerName.none:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    if config.scheduler.fidelity is Fidelity.epoch:
        return _asha(config, config.trial.training.num_epochs)
    return FlopsScheduler(config)


def _asha(config: SweepConfig, full: float) -> ASHAScheduler:
    return ASHAScheduler(
        time_attr=fidelity_key(config.scheduler),
        metric=f"{METRICS}/{config.search.metric}",
        mode="max" if config.search.direction is Direction.maximize else "min",
        max_t=full,  # type: ignore[arg-type]  # FLOPs, or epochs: any number
        grace_period=config.scheduler.grace * full,  # type: ignore[arg-type]
        reduction_factor=config.scheduler.reduction_factor,
        # A trial that grew costs more than the base: past the last rung it runs to its own end.
        stop_last_trials=False,
    )


class FlopsScheduler(FIFOScheduler):
    """ASHA over train FLOPs, whose scale the first report brings: the driver itself imports no torch."""

    def __init__(self, config: SweepConfig) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._config = config
        self._asha: ASHAScheduler | None = None
        self._waiting: list[Trial] = []

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Hand the trial to ASHA, now or when there is one."""
        if self._asha is None:
            self._waiting.append(trial)
        else:
            self._asha.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """ASHA's decision."""
        if self._asha is None:
            self._asha = _asha(self._config, result["full_train_flops"])
            for waiting in self._waiting:
                self._asha.on_trial_add(tune_controller, waiting)
        return str(self._asha.on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Let ASHA count the last result."""
        if self._asha is not None:
            self._asha.on_trial_complete(tune_controller, trial, result)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # disposable, like all of Tune's state


def _job(setting: Setting, assignment: Assignment) -> dict[str, Any]:
    folder = setting.folder / str(assignment.number)
    dirs = [word for each in setting.config.config_dirs for word in ("--config-dir", each)]
    typed = [word for word in setting.config.overrides if re.split(r"[.=]", word)[0] not in _NOT_OF_A_TRIAL]
    words = ["sweeps", "train", *dirs, *typed, *assignment.overrides]
    given = {
        "format": events.FORMAT,
        "sweep": setting.folder.name,
        "number": assignment.number,
        "params": assignment.params,
        "overrides": assignment.overrides,
        "command": shlex.join(words),
        "config": assignment.config,
    }
    events.write_json(folder / events.GIVEN, given)
    return Job(
        sweep=setting.folder.name,
        number=assignment.number,
        folder=str(folder),
        workdir=setting.workdir,
        config=assignment.config,
        base=setting.config.trial.to_dict(),
        device="cuda" if setting.config.cluster.gpus_per_trial else "cpu",
    ).to_dict()


def _name(trial: Trial) -> str:
    return str(trial.config["job"]["number"])


class _Callback(tune.Callback):
    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._monitor.reported(trial.config["job"]["number"], result)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = trial.get_error()
        lines = str(error.cause if isinstance(error, RayTaskError) else error).strip().splitlines()
        self._monitor.retried(trial.config["job"]["number"], lines[-1] if lines else type(error).__name__)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks; terminals do not pickle


class _Stopper(tune.Stopper):
    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop.asked
