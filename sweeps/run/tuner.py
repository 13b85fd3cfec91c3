"""The one Ray Tuner of a run: searcher, scheduler, resources, callbacks; its own state is thrown away."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.experiment import Trial

from sweeps.cluster.slots import num_slots
from sweeps.config.settings import SchedulerName, SweepConfig
from sweeps.kept import events, replicates
from sweeps.kept.trials import Assignment
from sweeps.run.attempts import Attempts, Death
from sweeps.run.monitor import Monitor, Stop
from sweeps.run.searcher import Goal, StudySearcher
from sweeps.search import Space, Study
from sweeps.space.search_space import SearchSpace
from sweeps.stopping.earlier import note_scale
from sweeps.stopping.fidelity import fidelity_key, full_trial
from sweeps.stopping.population import Population
from sweeps.stopping.schedulers import scheduler
from sweeps.trial.job import Job
from sweeps.trial.worker import SweepTrial

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
    attempts = Attempts(setting.folder, setting.config.cluster.max_retries, monitor.say)
    searcher = _searcher(setting, study, space, monitor, attempts)
    monitor.adopt(searcher.adopted)
    judge = scheduler(setting.config, lambda trial: attempts.died(_number(trial), _death(trial)))
    judge.recall(setting.folder)
    cluster = setting.config.cluster
    resources = {"cpu": cluster.cpus_per_trial, "gpu": cluster.gpus_per_trial}
    with _scratch(setting.folder) as state:
        tune.Tuner(
            tune.with_resources(trainable or SweepTrial, resources),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # the searcher says when it is enough
                search_alg=searcher,
                scheduler=judge,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="state",
                storage_path=str(state),
                callbacks=[_Callback(monitor, setting.folder)],
                failure_config=tune.FailureConfig(max_failures=0),  # whether again: `attempts` decides
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                stop=_Stopper(stop),
                verbose=0,
            ),
        ).fit()


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Where Tune keeps its disposable state: beside the sweep, so that every node sees it."""
    path = folder / ".tune"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _searcher(
    setting: Setting, study: Study, space: Space, monitor: Monitor, attempts: Attempts
) -> StudySearcher:
    population, base = _population(setting, study, space, monitor), full_trial(setting.config)

    def job(assignment: Assignment) -> dict[str, Any]:
        if population is None or not population.has_begun(assignment.number):
            monitor.started(assignment)
        else:
            monitor.resumed(assignment.number)
        turn = None if population is None else asdict(population.turn(assignment.number))
        return _job(setting, assignment, base, turn)

    return StudySearcher(
        study,
        space,
        Goal(fidelity=fidelity_key(setting.config.scheduler)),
        job=job,
        capacity=lambda: num_slots(setting.config.cluster),
        attempts=attempts,
        listener=monitor,
        population=population,
    )


def _population(setting: Setting, study: Study, space: Space, monitor: Monitor) -> Population | None:
    if setting.config.scheduler.name is not SchedulerName.pbt:
        return None
    assert isinstance(space, SearchSpace)
    return Population(setting.config, setting.folder, space, study, monitor.say)


def _job(
    setting: Setting, assignment: Assignment, base: dict[str, Any], turn: dict[str, Any] | None
) -> dict[str, Any]:
    folder, cluster = setting.folder / str(assignment.number), setting.config.cluster
    if turn is None or not (folder / events.GIVEN).exists():  # what changes later is in the events
        _write_given(setting, assignment, folder)
    return Job(
        sweep=setting.folder.name,
        number=assignment.number,
        folder=str(folder),
        workdir=setting.workdir,
        config=assignment.config,
        base=base,
        device="cuda" if cluster.gpus_per_trial else "cpu",
        turn=turn,
        num_replicates=setting.config.sweep.replicates,
        trial_seconds=cluster.trial_seconds,
        hang_seconds=cluster.hang_seconds,
    ).to_dict()


def _write_given(setting: Setting, assignment: Assignment, folder: Path) -> None:
    """What a trial was given, and each of its replicates."""
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
    num = setting.config.sweep.replicates
    for index, own in enumerate(replicates.folders(folder, num) if num > 1 else ()):
        config = replicates.config(assignment.config, index)
        seed = f"seed={config['seed']}"
        also = {"replicate": index, "overrides": [*assignment.overrides, seed], "config": config}
        events.write_json(own / events.GIVEN, {**given, **also, "command": shlex.join([*words, seed])})


def _number(trial: Trial) -> int:
    return int(trial.config["job"]["number"])


def _name(trial: Trial) -> str:
    return str(_number(trial))


def _death(trial: Trial) -> Death:
    # Tune has the error in a file of this machine; what its `get_error` reads is copied there later.
    path = trial.pickled_error_file or trial.error_file
    if path is None:
        return Death(reason="for no known reason", was_preempted=False)
    if path == trial.error_file:
        return Death(reason=_in_a_line(Path(path).read_text()), was_preempted=False)
    error = cloudpickle.loads(Path(path).read_bytes())
    was_preempted = isinstance(error, RayActorError) and bool(error.preempted)
    cause = error.cause if isinstance(error, RayTaskError) else error
    return Death(reason=_in_a_line(str(cause)), was_preempted=was_preempted)


def _in_a_line(text: str) -> str:
    """What an error of Ray's says, without its advice: the last line, or how the process ended."""
    *_, last = text.strip().splitlines() or [""]
    last = last.partition("Worker exit detail: ")[2] or last
    return re.split(r" Some common causes| There are some potential", last)[0][:300] or "for no known reason"


class _Callback(tune.Callback):
    def __init__(self, monitor: Monitor, folder: Path) -> None:
        self._monitor = monitor
        self._folder = folder

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        note_scale(self._folder, result)
        self._monitor.reported(_number(trial), result)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks; terminals do not pickle


class _Stopper(tune.Stopper):
    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop.asked
