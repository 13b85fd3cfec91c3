"""One driver's run of a sweep: its lease, its Ray, its records, and what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from sweeps.cluster.connection import connected
from sweeps.cluster.slots import num_slots
from sweeps.config.errors import ConfigError
from sweeps.config.own_modules import importable_from
from sweeps.config.settings import Direction, NotifyEvent, SweepConfig, SweepSettings
from sweeps.kept import events
from sweeps.kept.budget import Budget
from sweeps.kept.trials import TrialRow
from sweeps.records import disk, retention, tracking_store
from sweeps.records.projection import Projector
from sweeps.run import checks, lease, result, warm_start
from sweeps.run.heartbeat import Heartbeat
from sweeps.run.monitor import FailureWatch, Monitor, Stop, TrialCallback, stop_on_signal
from sweeps.run.notify import BestTeller, Notifier
from sweeps.run.result import Result
from sweeps.run.spending import Spending
from sweeps.search import Goals, SamplerSettings, Study, study_url
from sweeps.space.search_space import SearchSpace
from sweeps.views.progress import Display, Logged, display


class DiskFull(RuntimeError):
    """Nothing more can be written; what was written before is whole."""


class LeaseLost(RuntimeError):
    """Another driver runs the sweep by now; this one has stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Watch:
    """Who watches a run and is told of it."""

    shown: Display
    pulse: Heartbeat
    notifier: Notifier


class Driver:
    """One driver's run of a sweep."""

    def __init__(
        self, config: SweepConfig, folder: Path, plan: dict[str, Any], trainable: type[Any] | None
    ) -> None:
        self._config = config
        self._folder = folder
        self._plan = plan
        self._trainable = trainable
        importable_from(plan["workdir"])
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
        checks.check_budget(self._config)
        checks.check_metrics(self._config)
        # What is resumed has records already: an outage shall not hold it up.
        required = is_new and self._config.tracking.required
        if required:
            tracking_store.probe(self._uri)
        checks.check_data(self._config.trial)
        self._root.mkdir(parents=True, exist_ok=True)
        with lease.held(self._url, self._folder.name) as mine:
            study = None if is_new else self._study()
            with self._watched(mine, study) as watch:
                if study is not None and study.is_over:
                    ended = self._catch_up(study, required, watch)
                else:
                    ended = self._run(study, required, watch)
                result.tell(ended, watch.notifier)
            keep = self._config.storage.keep_checkpoints
            if keep is not None and not ended.interrupted:
                retention.collect(ended.study, self._folder, keep)
        return ended

    def _run(self, study: Study | None, required: bool, watch: _Watch) -> Result:
        """Connect, train what is left, and sum up, while what happens is sent to MLflow."""
        say, cluster = watch.shown.say, self._config.cluster
        with ExitStack() as stack:
            # MLflow's import and Ray's start take seconds each: side by side.
            opening = stack.enter_context(ThreadPoolExecutor(1)).submit(self._open_store, required)
            say("Ray starts" if cluster.address is None else "connecting to Ray")
            stack.enter_context(connected(cluster))
            tracking = opening.result()
            study = study or self._create()
            self._prepare(study, tracking, say)
            slots = num_slots(cluster)
            say(f"{slots} trials at a time; a worker takes some seconds to start, once")
            projector = stack.enter_context(Projector(tracking, self._folder, self._plan))
            before = study.rows()
            from sweeps.run import tuner  # late, as it imports Ray's part that takes longest

            with self._training(study, watch) as monitor:
                monitor.catch_up(before)
                setting = tuner.Setting(
                    config=self._config, folder=self._folder, workdir=self._plan["workdir"]
                )
                tuner.fit(setting, study, self._space, monitor, self._stop, self._trainable)
            ended = self._summed_up(study, before, slots)
            result.write(ended)
        return replace(ended, complaint=projector.complaint)

    def _catch_up(self, study: Study, required: bool, watch: _Watch) -> Result:
        """Nothing is left to run: sum up, and send what MLflow may lack."""
        watch.shown.say(
            f"nothing is left to run ({study.ended_by}): only records that MLflow may lack are sent"
        )
        rows = study.rows()
        Monitor(watch.shown, self._folder, self._stop).catch_up(rows)
        with Projector(self._open_store(required), self._folder, self._plan) as projector:
            ended = self._summed_up(study, rows, 0)
            result.write(ended)
        return replace(ended, complaint=projector.complaint)

    # What a run stands on

    @contextmanager
    def _watched(self, mine: lease.Lease, study: Study | None) -> Iterator[_Watch]:
        """The lease renewed, what happens shown and told, until the block ends."""
        name = self._folder.name
        with (
            closing(self._shown(study)) as shown,
            Heartbeat(mine, self._stop, shown.say) as pulse,
            Notifier(self._config.notify, name, shown.say) as notifier,
        ):
            try:
                yield _Watch(shown=shown, pulse=pulse, notifier=notifier)
            except (ConfigError, LeaseLost):
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                full = events.disk_is_full(error)
                notifier.tell(NotifyEvent.failed, f"failed: {'the disk is full' if full else reason}")
                if full:
                    raise DiskFull(_full(self._folder)) from error
                raise

    def _shown(self, study: Study | None) -> Display:
        search = self._config.search
        budget = budget_of(self._config.sweep) if study is None else study.budget
        done = 0 if study is None else sum(row.state.has_ended for row in study.rows())
        known = disk.metrics_of(self._plan)
        shown = display(budget, done, search.metric, search.direction is Direction.maximize, known=known)
        return Logged(shown, self._folder / disk.LOG, search.metric, known)

    def _create(self) -> Study:
        try:
            self._folder.mkdir()
        except FileExistsError:
            raise ConfigError(checks.exists(self._folder)) from None
        # The plan comes before the study: what has a plan can be resumed.
        (self._folder / disk.PLAN).write_text(yaml.safe_dump(self._plan, sort_keys=False))
        return self._study()

    def _study(self) -> Study:
        search, name = self._config.search, self._folder.name
        sampler = SamplerSettings.of(search)
        try:
            return Study.load(self._url, name, sampler)
        except KeyError:
            goals, budget = Goals.of(search), budget_of(self._config.sweep)
            return Study.create(self._url, name, sampler, goals=goals, budget=budget)

    def _open_store(self, required: bool) -> tracking_store.Tracking | tracking_store.Awaited:
        return tracking_store.open_store(self._uri, self._config.tracking.experiment, self._root, required)

    def _prepare(
        self,
        study: Study,
        tracking: tracking_store.Tracking | tracking_store.Awaited,
        say: Callable[[str], None],
    ) -> None:
        """What the search starts from is in the study; what people should know before it does is said."""
        if isinstance(tracking, tracking_store.Awaited):
            say(f"MLflow at {self._uri} does not answer: records are sent when it does")
        earlier = [disk.read_earlier(self._root, name) for name in self._config.search.warm_start]
        for note in warm_start.prepare(study, self._config, self._space, earlier):
            say(note)

    @contextmanager
    def _training(self, study: Study, watch: _Watch) -> Iterator[Monitor]:
        """Trials watched, what they spend kept, signals heard, until the block ends."""
        sweep = self._config.sweep
        spending = Spending(study, self._config.cluster.gpus_per_trial, sweep.replicates, watch.shown)
        watch.pulse.also(spending.write)
        failures = FailureWatch(sweep.max_failed, self._stop, watch.shown.say)
        callbacks: list[TrialCallback] = [spending, failures, BestTeller(study, watch.notifier)]
        (self._folder / events.OUTCOME).unlink(missing_ok=True)
        with stop_on_signal(self._stop, watch.shown):
            yield Monitor(watch.shown, self._folder, self._stop, callbacks)
        if watch.pulse.is_lost:
            raise LeaseLost(f"{self._folder.name} is run by another driver; this one has stopped.")
        spending.write()

    def _summed_up(self, study: Study, before: list[TrialRow], num_slots: int) -> Result:
        return result.result_of(
            study,
            self._folder,
            before,
            seconds=time.monotonic() - self._began,
            num_slots=num_slots,
            num_replicates=self._config.sweep.replicates,
            failure=self._stop.failure,
        )


def budget_of(settings: SweepSettings) -> Budget:
    """What a new sweep may spend."""
    return Budget(
        num_trials=settings.num_trials,
        hours=settings.max_hours,
        gpu_hours=settings.max_gpu_hours,
        train_flops=settings.max_train_flops,
    )


def _full(folder: Path) -> str:
    return (
        f"nothing more can be written to {folder.parent}. Nothing that was reported is lost, and running "
        f"trials go on from their checkpoints: make room (`sweeps gc` removes checkpoints of ended trials), "
        f"then `sweeps resume {folder.name}`."
    )
