"""The durable study: which trials a sweep has, what each was given and how it ended.

Optuna's storage owns trials, their states and the budget; everything else (Ray Tune's state, MLflow) can be
lost and rebuilt. This is the only file that imports Optuna. A trial's outcome is told once: telling it again
changes nothing.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

FORMAT = 1  # of the user attributes written here
_RESEED = 1_000_003  # a prime: seeds of consecutive resumes never meet those of neighbouring sweeps


class TrialState(StrEnum):
    """Where a trial stands; `stopped` means the scheduler ended it before its last epoch."""

    running = "running"
    complete = "complete"
    stopped = "stopped"
    failed = "failed"


_STATES = {
    optuna.trial.TrialState.RUNNING: TrialState.running,
    optuna.trial.TrialState.WAITING: TrialState.running,
    optuna.trial.TrialState.COMPLETE: TrialState.complete,
    optuna.trial.TrialState.PRUNED: TrialState.stopped,
    optuna.trial.TrialState.FAIL: TrialState.failed,
}


class Space(Protocol):
    """What a study needs of a search space (see `sweeps.space.SearchSpace`)."""

    def suggest(self, trial: Any) -> dict[str, Any]:
        """Parameters drawn through `trial.suggest_float`, `suggest_int` and `suggest_categorical`."""

    def overrides(self, params: dict[str, Any]) -> list[str]:
        """The same parameters as command-line overrides."""

    def apply(self, params: dict[str, Any]) -> Any:
        """The TrialConfig these parameters give; raises ValueError where they contradict each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerSettings:
    """What chooses parameters: equal settings and the same order of asks and tells give equal parameters."""

    name: str = "tpe"  # or random
    seed: int = 0
    num_startup_trials: int = 10  # random trials before TPE models anything


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """One configuration that is to be trained, under its number in the sweep."""

    number: int
    params: dict[str, Any]  # dotted trial key -> value
    overrides: list[str]  # the same as command-line overrides
    config: dict[str, Any]  # TrialConfig.to_dict()


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What is known of a trial when it ends."""

    metrics: dict[str, float] = field(default_factory=dict)  # of its last report
    step: int = 0
    epoch: float = 0.0
    num_grown: int = 0  # edits that added neurons
    num_pruned: int = 0  # edits that removed or restarted connections
    checkpoint: str | None = None  # folder, relative to storage.root

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `Outcome(**values)` reads them back."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRow:
    """One trial as the study knows it."""

    number: int
    state: TrialState
    reason: str | None  # why it failed or was stopped
    params: dict[str, Any]
    overrides: list[str]
    config: dict[str, Any]
    value: float | None  # the objective; of a stopped trial: at the fidelity it reached
    outcome: Outcome
    started: datetime | None
    ended: datetime | None

    @property
    def seconds(self) -> float:
        """Wall seconds from ask to tell; 0 while it runs."""
        return (self.ended - self.started).total_seconds() if self.started and self.ended else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRow:
    """One sweep in a list of sweeps."""

    name: str
    started: datetime | None
    num_trials: dict[TrialState, int]
    best: float | None
    metric: str
    budget: int | None


_DEFAULT = SamplerSettings()


class Study:
    """A sweep's trials in a database.

    Example:
        >>> study = Study.create("sqlite:///runs/optuna.db", "demo-1a2b", metric="val/accuracy")
        >>> assignment = study.ask(space)
        >>> study.complete(assignment.number, 0.93, Outcome())
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    @classmethod
    def create(
        cls,
        url: str,
        name: str,
        sampler: SamplerSettings = _DEFAULT,
        *,
        metric: str = "val/accuracy",
        direction: str = "maximize",
        budget: int | None = None,
    ) -> Study:
        """A new study.

        Args:
            url: SQLAlchemy address of the database, created where it is a missing SQLite file.
            name: of the sweep; unique in the database.
            sampler: what chooses parameters.
            metric: report key the direction is about.
            direction: `maximize` or `minimize`.
            budget: trials the sweep was launched with.

        Raises:
            FileExistsError: the database already holds a sweep of this name.
        """
        storage = _storage(url)
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction=direction,  # type: ignore[arg-type]
                sampler=_sampler(sampler, 0),
            )
        except optuna.exceptions.DuplicatedStudyError:
            raise FileExistsError(
                f"The sweep '{name}' already exists in {url}. Continue it with `sweeps resume {name}`, "
                f"or choose another name: sweep.name=NAME."
            ) from None
        study.set_user_attr("format", FORMAT)
        study.set_user_attr("metric", metric)
        study.set_user_attr("budget", budget)
        return cls(study)

    @classmethod
    def load(cls, url: str, name: str, sampler: SamplerSettings = _DEFAULT) -> Study:
        """An existing study, to read it or to continue it.

        The sampler starts from a seed of its own, so that a resumed sweep does not draw its first trials
        again.

        Raises:
            KeyError: the database holds no such sweep; the message lists those it holds.
        """
        storage = _storage(url)
        known = [study.study_name for study in storage.get_all_studies()]
        if name not in known:
            listed = ", ".join(sorted(known)) or "none yet"
            raise KeyError(f"No sweep '{name}' in {url}. Known sweeps: {listed}.")
        study = optuna.load_study(study_name=name, storage=storage)
        study.sampler = _sampler(sampler, 1 + len(study.get_trials(deepcopy=False)))
        return cls(study)

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self._study.study_name

    @property
    def metric(self) -> str:
        """The report key that ranks trials."""
        return str(self._study.user_attrs["metric"])

    @property
    def maximize(self) -> bool:
        """Whether a larger metric is better."""
        return self._study.direction == optuna.study.StudyDirection.MAXIMIZE

    def num_asked(self) -> int:
        """Trials that were asked for so far, whatever became of them."""
        return self._study._storage.get_n_trials(self._study._study_id)

    def ask(self, space: Space) -> Assignment | None:
        """The next configuration, or None where the parameters contradict each other.

        A contradiction is told as a failed trial with its reason, so the sampler moves on.
        """
        return self._assign(self._study.ask(), space)

    def orphans(self, space: Space) -> list[Assignment]:
        """Trials left running by a driver that is gone: same numbers, same parameters."""
        running = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        # A driver may die between two suggestions: a Trial of the same id keeps what was drawn and draws
        # the rest.
        found = [self._assign(optuna.trial.Trial(self._study, t._trial_id), space) for t in running]
        return [assignment for assignment in found if assignment is not None]

    def _assign(self, trial: optuna.trial.Trial, space: Space) -> Assignment | None:
        params = space.suggest(trial)
        given: dict[str, Any] = {"params": params, "overrides": space.overrides(params), "config": {}}
        try:
            given["config"] = space.apply(params).to_dict()
        except ValueError as error:
            trial.set_user_attr("given", json.dumps(given))
            self.fail(trial.number, str(error), Outcome())
            return None
        trial.set_user_attr("given", json.dumps(given))
        return Assignment(number=trial.number, **given)

    def complete(self, number: int, value: float, outcome: Outcome) -> None:
        """The trial ran to its end with this objective value; a value that is not finite fails it."""
        if not math.isfinite(value):
            self.fail(number, f"{self.metric} is {value}", outcome)
            return
        self._tell(number, outcome, None, values=value)

    def stop(self, number: int, value: float | None, fidelity: int, outcome: Outcome, reason: str) -> None:
        """The scheduler ended the trial at this fidelity (epochs, or FLOPs) with this value so far."""
        trial = self._unfinished(number)
        if trial is not None and value is not None and math.isfinite(value):
            trial.report(value, step=fidelity)
        self._tell(number, outcome, reason, state=optuna.trial.TrialState.PRUNED)

    def fail(self, number: int, reason: str, outcome: Outcome) -> None:
        """The trial failed; the sweep goes on."""
        self._tell(number, outcome, reason, state=optuna.trial.TrialState.FAIL)

    def _tell(self, number: int, outcome: Outcome, reason: str | None, **told: Any) -> None:
        trial = self._unfinished(number)
        if trial is None:
            return
        trial.set_user_attr("ended", json.dumps({"reason": reason, "outcome": outcome.to_dict()}))
        self._study.tell(number, skip_if_finished=True, **told)

    def _unfinished(self, number: int) -> optuna.trial.Trial | None:
        frozen = self._frozen(number)
        return None if frozen.state.is_finished() else optuna.trial.Trial(self._study, frozen._trial_id)

    def _frozen(self, number: int) -> FrozenTrial:
        if not 0 <= number < self.num_asked():
            raise KeyError(f"{self.name} has trials 0 to {self.num_asked() - 1}; there is no trial {number}.")
        storage, study_id = self._study._storage, self._study._study_id
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def row(self, number: int) -> TrialRow:
        """One trial; KeyError where there is no such number."""
        return _row(self._frozen(number))

    def rows(self) -> list[TrialRow]:
        """Every trial, by number."""
        return [_row(trial) for trial in self._study.get_trials(deepcopy=False)]

    def rank(self) -> list[TrialRow]:
        """Complete trials, best first; ties keep the order of their numbers."""
        complete = [row for row in self.rows() if row.state is TrialState.complete and row.value is not None]
        sign = -1.0 if self.maximize else 1.0
        return sorted(complete, key=lambda row: sign * (row.value or 0.0))

    def summary(self) -> StudyRow:
        """Counts, best value and age."""
        rows = self.rows()
        ranked = self.rank()
        budget = self._study.user_attrs.get("budget")
        return StudyRow(
            name=self.name,
            started=min((row.started for row in rows if row.started), default=None),
            num_trials={state: sum(row.state is state for row in rows) for state in TrialState},
            best=ranked[0].value if ranked else None,
            metric=self.metric,
            budget=budget,
        )


def list_studies(url: str) -> list[StudyRow]:
    """Every sweep in a database, oldest first."""
    storage = _storage(url)
    names = [study.study_name for study in storage.get_all_studies()]
    return [Study(optuna.load_study(study_name=name, storage=storage)).summary() for name in names]


def study_url(root: Path) -> str:
    """Where the studies of a storage root are kept."""
    return f"sqlite:///{root.absolute() / 'optuna.db'}"


def _storage(url: str) -> RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not url.startswith("sqlite"):
        return RDBStorage(url)
    # Readers (`sweeps list`) and the driver share one file: wait for its lock instead of failing.
    return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})


def _sampler(settings: SamplerSettings, num_asked: int) -> optuna.samplers.BaseSampler:
    seed = (settings.seed + _RESEED * num_asked) % 2**32
    if settings.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if settings.name != "tpe":
        raise ValueError(
            f"search.sampler={settings.name!r} is neither tpe nor random. For example search.sampler=tpe."
        )
    with warnings.catch_warnings():
        # Grouped TPE models conditional keys where they exist; Optuna still calls the option experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=settings.num_startup_trials, multivariate=True, group=True
        )


def _row(trial: FrozenTrial) -> TrialRow:
    given: Mapping[str, Any] = json.loads(trial.user_attrs.get("given", "{}"))
    ended: Mapping[str, Any] = json.loads(trial.user_attrs.get("ended", "{}"))
    return TrialRow(
        number=trial.number,
        state=_STATES[trial.state],
        reason=ended.get("reason"),
        params=given.get("params", {}),
        overrides=given.get("overrides", []),
        config=given.get("config", {}),
        value=_value(trial),
        outcome=Outcome(**ended.get("outcome", {})),
        started=trial.datetime_start,
        ended=trial.datetime_complete,
    )


def _value(trial: FrozenTrial) -> float | None:
    if trial.state is optuna.trial.TrialState.PRUNED:
        last = trial.last_step
        return None if last is None else trial.intermediate_values[last]
    return trial.value if trial.state is optuna.trial.TrialState.COMPLETE else None
