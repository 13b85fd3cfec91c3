"""A sweep from plan to result: one Tuner from space, search, scheduler and resources.

Optuna's study owns the trials, so starting and resuming are the same: a new Tuner every time, whose searcher
hands out what an earlier driver left running and then asks until the study holds the budget.
"""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from growcore.config import TrialConfig, missing_data
from sweeps import best, events, records, starting, stores
from sweeps.cluster import connected, num_slots
from sweeps.config import Direction, SweepConfig
from sweeps.events import FORMAT
from sweeps.monitor import Monitor, stop_on_signal
from sweeps.progress import Progress, progress
from sweeps.schema import ConfigError
from sweeps.search import SamplerSettings, Study, TrialRow, study_url
from sweeps.space import SearchSpace

_PLAN = "plan.yaml"
_EMBEDDED = ("digits", "synthetic")  # data sets that no disk can lack


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How a sweep, or this run of it, ended."""

    study: Study
    folder: Path
    best: Path | None  # the best file; None where no trial is complete
    interrupted: bool  # trials of the budget are still to run
    seconds: float  # wall seconds of this run
    num_slots: int
    busy: float  # fraction of slot time spent training
    complaint: str | None  # why records are missing in MLflow


def new_name(config: SweepConfig) -> str:
    """`sweep.name`, or the space and four hex digits: grow-prune-7f3a."""
    if config.sweep.name is not None:
        return config.sweep.name
    return f"{config.space_name.replace('_', '-')}-{secrets.token_hex(2)}"


def launch(config: SweepConfig, name: str, command: list[str], trainable: type[Any] | None = None) -> Result:
    """Run a new sweep to its end.

    Args:
        config: the whole request.
        name: of the sweep, also its folder under `storage.root`.
        command: the words the user typed, for the records.
        trainable: a Tune Trainable class in place of `sweeps.trial.SweepTrial`.

    Raises:
        ConfigError: the request cannot be met; nothing was started.
    """
    folder = Path(config.storage.root).absolute() / name
    if folder.exists():
        raise ConfigError(_exists(folder))
    plan = {
        "format": FORMAT,
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "commit": git_commit(),
        "workdir": str(Path.cwd()),
        "config": config.to_dict(),
    }
    return _Run(config, folder, plan, trainable).start(is_new=True)


def notes(config: SweepConfig, space: SearchSpace) -> list[str]:
    """What people should know of a search before it starts: what its sampler cannot do, where it starts.

    Raises:
        ConfigError: the search cannot be done, or starts from what is not there.
    """
    aims = starting.goals(config.search)
    sources = [_source(Path(config.storage.root), name) for name in config.search.warm_start]
    found = [starting.known(space, aims, source).note for source in sources]
    return [*starting.check(config, space), *found]


def extend(root: Path, name: str, num_trials: str) -> int:
    """Change how many trials a sweep may run; a running one goes on, another is to be resumed.

    Args:
        root: storage root.
        name: of the sweep.
        num_trials: `+20` for so many more, `84` for so many in all.

    Returns:
        The new number in all.

    Raises:
        ConfigError: there is no such sweep, or it has handed out more trials already.
    """
    if re.fullmatch(r"\+?\d+", num_trials) is None:
        raise ConfigError(f"--trials must be +NUMBER, or NUMBER in all; got {num_trials}.")
    study = open_study(root, name)
    budget = study.budget + int(num_trials) if num_trials.startswith("+") else int(num_trials)
    study.set_budget(budget)
    return budget


def enqueue(root: Path, name: str, words: Sequence[str]) -> int:
    """Add a trial to a sweep, to be handed out next; keys not given are drawn by its sampler.

    Args:
        root: storage root.
        name: of the sweep.
        words: `KEY=VALUE` of searched keys.

    Returns:
        How many trials the sweep may run now: one more.

    Raises:
        ConfigError: there is no such sweep, or a value is not of its space.
    """
    config = SweepConfig.from_dict(read_plan(root, name)["config"])
    params = starting.typed(SearchSpace.of(config), words)
    study = open_study(root, name)
    # The budget first: a driver that finds the trial finds room for it.
    study.set_budget(study.budget + 1)
    study.enqueue(params)
    return study.budget


def resume(root: Path, name: str, trainable: type[Any] | None = None) -> Result:
    """Run what is left of a sweep: trials that were running continue, then the rest of the budget.

    Raises:
        ConfigError: there is no such sweep under `root`, or its request cannot be met now.
    """
    plan = read_plan(root, name)
    config = SweepConfig.from_dict(plan["config"])
    config.storage.root = str(root.absolute())
    return _Run(config, root.absolute() / name, plan, trainable).start(is_new=False)


def read_plan(root: Path, name: str) -> dict[str, Any]:
    """What a sweep was launched with; ConfigError where there is no such sweep."""
    path = root / name / _PLAN
    if not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in root.glob(f"*/{_PLAN}"))) or "none yet"
        raise ConfigError(f"No sweep '{name}' under {root}. Known sweeps: {known}.")
    plan: dict[str, Any] = yaml.safe_load(path.read_text())
    if plan.get("format") != FORMAT:
        raise ConfigError(f"{path} has format {plan.get('format')}; this version reads format {FORMAT}.")
    return plan


def open_study(root: Path, name: str) -> Study:
    """A sweep's study, to read it; ConfigError where there is none."""
    if not (root / "optuna.db").is_file():
        raise ConfigError(f"No sweeps under {root}. Start one with `sweeps launch`, or name the folder.")
    try:
        return Study.load(study_url(root), name, SamplerSettings(name="random"))  # it is only read
    except KeyError as error:
        raise ConfigError(str(error.args[0])) from None


def git_commit() -> str | None:
    """The commit of the working folder, `-dirty` where files differ; None outside git."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None


class _Run:
    """One driver's run of a sweep."""

    def __init__(
        self, config: SweepConfig, folder: Path, plan: dict[str, Any], trainable: type[Any] | None
    ) -> None:
        self._config = config
        self._folder = folder
        self._plan = plan
        self._trainable = trainable
        self._root = folder.parent
        self._space = SearchSpace.of(config)

    def start(self, *, is_new: bool) -> Result:
        uri = self._config.tracking.uri or stores.default_uri(self._root)
        # What is resumed has records already: an outage shall not hold it up.
        required = is_new and self._config.tracking.required
        if required:
            stores.probe(uri)
        _check_data(self._config.trial)
        self._root.mkdir(parents=True, exist_ok=True)
        study = None if is_new else self._study()
        done = [] if study is None else [r for r in study.rows() if r.state.has_ended]
        search = self._config.search
        budget = self._config.sweep.num_trials if study is None else study.budget
        shown = progress(budget, len(done), search.metric, search.direction is Direction.maximize)
        began = time.monotonic()
        with ThreadPoolExecutor(1) as pool, closing(shown):
            # MLflow's import and Ray's start take seconds each: side by side.
            experiment = self._config.tracking.experiment
            opening = pool.submit(stores.open_store, uri, experiment, self._root, required)
            if study is not None and len(done) >= budget:
                shown.say("every trial has ended: only records that MLflow may lack are sent")
                Monitor(shown, self._folder).catch_up(study.rows())
                return self._record(opening.result(), study, lambda: self._result(study, done, began, 0))
            shown.say("Ray starts" if self._config.cluster.address is None else "connecting to Ray")
            with connected(self._config.cluster):
                tracking = opening.result()
                if isinstance(tracking, stores.Awaited):
                    shown.say(f"MLflow at {uri} does not answer: records are sent when it does")
                ready = study or self._create()
                for note in self._prepare(ready):
                    shown.say(note)
                slots = num_slots(self._config.cluster)
                shown.say(f"{slots} trials at a time; a worker takes some seconds to start, once")

                def run() -> Result:
                    self._fit(ready, shown)
                    return self._result(ready, done, began, slots)

                return self._record(tracking, ready, run)

    def _record(
        self, tracking: stores.Tracking | stores.Awaited, study: Study, run: Callable[[], Result]
    ) -> Result:
        """Do something while what happens is sent to MLflow."""
        with records.Projector(tracking, self._folder, self._plan) as projector:
            result = run()
            self._note(study, result)
        return replace(result, complaint=projector.complaint)

    def _create(self) -> Study:
        try:
            self._folder.mkdir()
        except FileExistsError:
            raise ConfigError(_exists(self._folder)) from None
        # The plan comes before the study: what has a plan can be resumed.
        (self._folder / _PLAN).write_text(yaml.safe_dump(self._plan, sort_keys=False))
        return self._study()

    def _study(self) -> Study:
        search, url, name = self._config.search, study_url(self._root), self._folder.name
        how = starting.settings(search)
        try:
            return Study.load(url, name, how)
        except KeyError:
            aims = starting.goals(search)
            return Study.create(url, name, how, goals=aims, budget=self._config.sweep.num_trials)

    def _prepare(self, study: Study) -> list[str]:
        sources = [_source(self._root, name) for name in self._config.search.warm_start]
        return starting.prepare(study, self._config, self._space, sources)

    def _fit(self, study: Study, shown: Progress) -> None:
        from sweeps import tuner

        (self._folder / events.OUTCOME).unlink(missing_ok=True)
        monitor = Monitor(shown, self._folder)
        monitor.catch_up(study.rows())
        setting = tuner.Setting(config=self._config, folder=self._folder, workdir=self._plan["workdir"])
        try:
            with stop_on_signal(shown) as stop:
                tuner.fit(setting, study, self._space, monitor, stop, self._trainable)
        finally:
            shutil.rmtree(self._folder / ".tune", ignore_errors=True)

    def _result(self, study: Study, done: list[TrialRow], began: float, slots: int) -> Result:
        seconds = time.monotonic() - began
        rows = study.rows()
        before = {row.number for row in done}
        worked = sum(r.outcome.metrics.get("cost/wall_seconds", 0.0) for r in rows if r.number not in before)
        left = any(not row.state.has_ended for row in rows)
        chosen = study.best()
        return Result(
            study=study,
            folder=self._folder,
            best=best.export(study, chosen, self._folder / "best.yaml") if chosen else None,
            interrupted=left or len(rows) < study.budget,
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
        status = "interrupted" if result.interrupted else "complete"
        outcome = {"status": status, "metrics": metrics, "time": time.time()}
        events.write_json(self._folder / events.OUTCOME, outcome)


def _source(root: Path, name: str) -> starting.Source:
    config = SweepConfig.from_dict(read_plan(root, name)["config"])
    return starting.Source(name=name, config=config, rows=open_study(root, name).rows())


def _exists(folder: Path) -> str:
    return (
        f"sweep.name={folder.name}: {folder} exists already. Continue that sweep with "
        f"`sweeps resume {folder.name}`, or choose another name: sweep.name=NAME."
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
