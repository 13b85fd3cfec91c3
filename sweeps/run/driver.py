"""One driver's run of a sweep: its lease, its Ray, its records, and what came out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from growcore.config import TrialConfig, missing_data
from sweeps.cluster.connection import connected, num_slots
from sweeps.config.schema import ConfigError
from sweeps.config.settings import Direction, NotifyEvent, SweepConfig, SweepSettings
from sweeps.kept import events
from sweeps.kept.budget import Budget
from sweeps.records import best, disk, projection, retention, tracking_store
from sweeps.run import lease, starting
from sweeps.run.heartbeat import Heartbeat
from sweeps.run.monitor import FailureWatch, Listener, Monitor, Stop, stop_on_signal
from sweeps.run.notify import BestTeller, Notifier
from sweeps.run.spending import Ledger
from sweeps.search import Study, TrialRow, study_url
from sweeps.space.search_space import SearchSpace
from sweeps.views.progress import Logged, Progress, progress

_EMBEDDED = ("digits", "synthetic")  # data sets that no disk can lack


class DiskFull(RuntimeError):
    """Nothing more can be written; what was written before is whole."""


class LeaseLost(RuntimeError):
    """Another driver runs the sweep by now; this one has stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How a sweep, or this run of it, ended."""

    study: Study
    folder: Path
    best: Path | None  # the best file; None where no trial is complete
    interrupted: bool  # there is more to run, within the budget
    ended_by: str | None  # which budget is spent: `16 of 16 trials`
    failure: str | None  # why it stopped, where going on would be a waste
    seconds: float  # wall seconds of this run
    num_slots: int
    busy: float  # fraction of slot time spent training
    complaint: str | None  # why records are missing in MLflow

    @property
    def status(self) -> str:
        """What it is recorded as: complete, interrupted or failed."""
        if self.failure is not None or (self.best is None and not self.interrupted):
            return "failed"
        return "interrupted" if self.interrupted else "complete"


def budget_of(settings: SweepSettings) -> Budget:
    """What a new sweep may spend."""
    return Budget(
        num_trials=settings.num_trials,
        hours=settings.max_hours,
        gpu_hours=settings.max_gpu_hours,
        train_flops=settings.max_train_flops,
    )


def check(config: SweepConfig) -> None:
    """Raise ConfigError where a budget can never be spent."""
    if config.sweep.max_gpu_hours is not None and not config.cluster.gpus_per_trial:
        raise ConfigError(
            f"sweep.max_gpu_hours={config.sweep.max_gpu_hours:g} is never spent with "
            "cluster.gpus_per_trial=0. Give trials GPUs: cluster.gpus_per_trial=1, or limit the sweep by "
            "its wall time: sweep.max_hours=8."
        )


class Driver:
    """One driver's run of a sweep."""

    def __init__(
        self, config: SweepConfig, folder: Path, plan: dict[str, Any], trainable: type[Any] | None
    ) -> None:
        self._config = config
        self._folder = folder
        self._plan = plan
        self._trainable = trainable
        self._root = folder.parent
        self._url = study_url(self._root)
        self._space = SearchSpace.of(config)
        self._uri = config.tracking.uri or tracking_store.default_uri(self._root)
        self._stop = Stop()
        self._began = time.monotonic()

    def start(self, *, is_new: bool) -> Result:
        """Run a new sweep, or what is left of one that was launched before.

        Raises:
            ConfigError: the request cannot be met, or another driver runs the sweep.
            LeaseLost: another driver has taken the sweep over.
        """
        check(self._config)
        # What is resumed has records already: an outage shall not hold it up.
        required = is_new and self._config.tracking.required
        if required:
            tracking_store.probe(self._uri)
        _check_data(self._config.trial)
        self._root.mkdir(parents=True, exist_ok=True)
        with lease.held(self._url, self._folder.name) as mine:
            study = None if is_new else self._study()
            with self._watching(mine, study) as (shown, pulse, notifier):
                result = self._run(study, required, shown, pulse, notifier)
                self._tell(result, notifier)
            keep = self._config.storage.keep_checkpoints
            if keep is not None and not result.interrupted:
                retention.collect(result.study, self._folder, keep)
        return result

    @contextmanager
    def _watching(
        self, mine: lease.Lease, study: Study | None
    ) -> Iterator[tuple[Progress, Heartbeat, Notifier]]:
        """The lease renewed, what happens shown and told, until the block ends."""
        name = self._folder.name
        with (
            closing(self._shown(study)) as shown,
            Heartbeat(mine, self._stop, shown.say) as pulse,
            Notifier(self._config.notify, name, shown.say) as notifier,
        ):
            try:
                yield shown, pulse, notifier
            except (ConfigError, LeaseLost):
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                full = events.disk_is_full(error)
                notifier.tell(NotifyEvent.failed, f"failed: {'the disk is full' if full else reason}")
                if full:
                    raise DiskFull(_full(self._folder)) from error
                raise

    def _shown(self, study: Study | None) -> Progress:
        search = self._config.search
        budget = budget_of(self._config.sweep) if study is None else study.budget
        done = 0 if study is None else sum(row.state.has_ended for row in study.rows())
        shown = progress(budget, done, search.metric, search.direction is Direction.maximize)
        return Logged(shown, self._folder / disk.LOG, search.metric)

    def _run(
        self, study: Study | None, required: bool, shown: Progress, pulse: Heartbeat, notifier: Notifier
    ) -> Result:
        with ThreadPoolExecutor(1) as pool:
            # MLflow's import and Ray's start take seconds each: side by side.
            experiment = self._config.tracking.experiment
            opening = pool.submit(tracking_store.open_store, self._uri, experiment, self._root, required)
            if study is not None and study.is_over:
                return self._catch_up(study, shown, opening)
            shown.say("Ray starts" if self._config.cluster.address is None else "connecting to Ray")
            with connected(self._config.cluster):
                tracking = opening.result()
                if isinstance(tracking, tracking_store.Awaited):
                    shown.say(f"MLflow at {self._uri} does not answer: records are sent when it does")
                ready = study or self._create()
                for note in self._prepare(ready):
                    shown.say(note)
                return self._record(tracking, ready, lambda: self._train(ready, shown, pulse, notifier))

    def _catch_up(
        self, study: Study, shown: Progress, opening: Future[tracking_store.Tracking | tracking_store.Awaited]
    ) -> Result:
        shown.say(f"nothing is left to run ({study.ended_by}): only records that MLflow may lack are sent")
        rows = study.rows()
        Monitor(shown, self._folder, self._stop).catch_up(rows)
        return self._record(opening.result(), study, lambda: self._result(study, rows, 0))

    def _record(
        self,
        tracking: tracking_store.Tracking | tracking_store.Awaited,
        study: Study,
        run: Callable[[], Result],
    ) -> Result:
        """Do something while what happens is sent to MLflow."""
        with projection.Projector(tracking, self._folder, self._plan) as projector:
            result = run()
            self._note(study, result)
        return replace(result, complaint=projector.complaint)

    def _create(self) -> Study:
        try:
            self._folder.mkdir()
        except FileExistsError:
            raise ConfigError(exists(self._folder)) from None
        # The plan comes before the study: what has a plan can be resumed.
        (self._folder / disk.PLAN).write_text(yaml.safe_dump(self._plan, sort_keys=False))
        return self._study()

    def _study(self) -> Study:
        search, name = self._config.search, self._folder.name
        how = starting.settings(search)
        try:
            return Study.load(self._url, name, how)
        except KeyError:
            aims, budget = starting.goals(search), budget_of(self._config.sweep)
            return Study.create(self._url, name, how, goals=aims, budget=budget)

    def _prepare(self, study: Study) -> list[str]:
        sources = [disk.source(self._root, name) for name in self._config.search.warm_start]
        return starting.prepare(study, self._config, self._space, sources)

    def _train(self, study: Study, shown: Progress, pulse: Heartbeat, notifier: Notifier) -> Result:
        slots = num_slots(self._config.cluster)
        shown.say(f"{slots} trials at a time; a worker takes some seconds to start, once")
        before = study.rows()
        sweep = self._config.sweep
        ledger = Ledger(study, self._config.cluster.gpus_per_trial, sweep.replicates, shown)
        pulse.also(ledger.write)
        watch = FailureWatch(sweep.max_failed, self._stop, shown.say)
        listeners: list[Listener] = [ledger, watch, BestTeller(study, notifier)]
        self._fit(study, shown, Monitor(shown, self._folder, self._stop, listeners))
        if pulse.is_lost:
            raise LeaseLost(f"{self._folder.name} is run by another driver; this one has stopped.")
        ledger.write()
        return self._result(study, before, slots)

    def _fit(self, study: Study, shown: Progress, monitor: Monitor) -> None:
        from sweeps.run import tuner

        (self._folder / events.OUTCOME).unlink(missing_ok=True)
        monitor.catch_up(study.rows())
        setting = tuner.Setting(config=self._config, folder=self._folder, workdir=self._plan["workdir"])
        try:
            with stop_on_signal(self._stop, shown):
                tuner.fit(setting, study, self._space, monitor, self._stop, self._trainable)
        finally:
            shutil.rmtree(self._folder / ".tune", ignore_errors=True)

    def _result(self, study: Study, before: list[TrialRow], slots: int) -> Result:
        seconds = time.monotonic() - self._began
        rows = study.rows()
        done = {row.number for row in before if row.state.has_ended}
        each = sum(r.outcome.metrics.get("cost/wall_seconds", 0.0) for r in rows if r.number not in done)
        worked = each * self._config.sweep.replicates
        chosen = study.best()
        return Result(
            study=study,
            folder=self._folder,
            best=best.export(study, chosen, self._folder / "best.yaml") if chosen else None,
            interrupted=not study.is_over,
            ended_by=study.ended_by,
            failure=self._stop.failure,
            seconds=seconds,
            num_slots=slots,
            busy=min(1.0, worked / max(1e-9, seconds * slots)),
            complaint=None,
        )

    def _note(self, study: Study, result: Result) -> None:
        num = study.summary().num_trials
        metrics = {f"trials/{state.value}": float(count) for state, count in num.items()}
        if (found := study.best()) is not None:
            metrics |= {f"best/{key}": value for key, value in found.outcome.metrics.items()}
        outcome = {"status": result.status, "metrics": metrics, "time": time.time()}
        events.write_json(self._folder / events.OUTCOME, outcome)

    def _tell(self, result: Result, notifier: Notifier) -> None:
        if result.num_slots == 0:  # nothing was run
            return
        if result.status == "failed":
            notifier.tell(NotifyEvent.failed, result.failure or "no trial is complete")
        elif result.status == "complete":
            row = result.study.best()
            assert row is not None
            assert row.value is not None
            message = f"finished ({result.ended_by}), best trial {row.number}: {row.value:.4f}"
            notifier.tell(NotifyEvent.finished, message, trial=row.number, value=row.value)


def exists(folder: Path) -> str:
    """What is said where a sweep of this name is there already."""
    return (
        f"sweep.name={folder.name}: {folder} exists already. Continue that sweep with "
        f"`sweeps resume {folder.name}`, or choose another name: sweep.name=NAME."
    )


def _full(folder: Path) -> str:
    return (
        f"nothing more can be written to {folder.parent}. Nothing that was reported is lost, and running "
        f"trials go on from their checkpoints: make room (`sweeps gc` removes checkpoints of ended trials), "
        f"then `sweeps resume {folder.name}`."
    )


def _check_data(config: TrialConfig) -> None:
    """Raise ConfigError where the base configuration's data set is missing, before anything is started."""
    if config.data.name in _EMBEDDED:
        return
    if problem := missing_data(config.data):
        raise ConfigError(problem)  # said without importing torch
    from growcore import data

    try:
        data.load(config.data, "cpu", config.imports)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error
