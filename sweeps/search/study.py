"""The durable study: which trials a sweep has, what each was given and how it ended.

Optuna's storage owns trials, their states and the budget; everything else (Ray Tune's state, MLflow) can be
lost and rebuilt. A trial's outcome is told once: telling it again changes nothing.

The storage also holds trials that are none of the sweep's own: those of earlier sweeps that it starts from,
and suggestions that repeated a configuration. Rows, ranks and the budget leave both out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from sweeps.config.errors import ConfigError
from sweeps.kept.budget import Budget, Spent, ended_by
from sweeps.kept.trials import Assignment, Change, Outcome, StudyRow, TrialRow, TrialState
from sweeps.search import attributes, ranking
from sweeps.search.asking import Exhausted, Space
from sweeps.search.duplicates import Configurations, tell_duplicate
from sweeps.search.frozen import (
    CHANGES,
    EARLIER,
    as_changed,
    is_foreign,
    read_changes,
    read_row,
)
from sweeps.search.goals import Goals
from sweeps.search.samplers import SamplerSettings, build
from sweeps.search.storage import open_storage

MAX_REDRAWS = 8  # draws in place of repeated configurations: so many from the sampler, then as many random

_DEFAULT = SamplerSettings()
_BUDGET = Budget(num_trials=16)


class Study:
    """A sweep's trials in a database.

    Example:
        >>> study = Study.create("sqlite:///runs/optuna.db", "demo-1a2b", budget=12)
        >>> assignment = study.ask(space)
        >>> study.complete(assignment.number, 0.93, Outcome())
    """

    def __init__(self, study: optuna.Study, settings: SamplerSettings = _DEFAULT) -> None:
        self._study = study
        self._settings = settings
        self.goals = attributes.read_goals(study)
        self._foreign: set[int] | None = None  # numbers that are not the sweep's own, once counted
        self._configurations = Configurations(study)

    @classmethod
    def create(
        cls,
        url: str,
        name: str,
        sampler: SamplerSettings = _DEFAULT,
        *,
        goals: Goals | None = None,
        budget: Budget | int = _BUDGET,
    ) -> Study:
        """A new study.

        Args:
            url: SQLAlchemy address of the database, created where it is a missing SQLite file.
            name: of the sweep; unique in the database.
            sampler: what chooses parameters.
            goals: objectives and constraints; None: `val/accuracy` up.
            budget: what the sweep may spend; a number: so many trials.

        Raises:
            FileExistsError: the database already holds a sweep of this name.
        """
        goals = goals or Goals()
        made = build(sampler, 0)
        storage = open_storage(url)
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=list(goals.objectives.values()),  # type: ignore[arg-type]
                sampler=made,
            )
        except optuna.exceptions.DuplicatedStudyError:
            raise FileExistsError(
                f"The sweep '{name}' already exists in {url}. Continue it with `sweeps resume {name}`, "
                f"or choose another name: sweep.name=NAME."
            ) from None
        given = Budget(num_trials=budget) if isinstance(budget, int) else budget
        attributes.note_goals(study, goals)
        attributes.note(study, budget=given.to_dict())
        return cls(study, sampler)

    @classmethod
    def load(cls, url: str, name: str, sampler: SamplerSettings = _DEFAULT) -> Study:
        """An existing study, to read it or to continue it.

        The sampler starts from a seed of its own, so that a resumed sweep does not draw its first trials
        again.

        Raises:
            KeyError: the database holds no such sweep; the message lists those it holds.
        """
        storage = open_storage(url)
        known = [study.study_name for study in storage.get_all_studies()]
        if name not in known:
            listed = ", ".join(sorted(known)) or "none yet"
            raise KeyError(f"No sweep '{name}' in {url}. Known sweeps: {listed}.")
        study = optuna.load_study(study_name=name, storage=storage)
        study.sampler = build(sampler, 1 + len(study.get_trials(deepcopy=False)))
        return cls(study, sampler)

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self._study.study_name

    @property
    def metric(self) -> str:
        """The report key that ranks trials: the first objective."""
        return self.goals.metric

    @property
    def maximize(self) -> bool:
        """Whether a larger metric is better."""
        return self.goals.objectives[self.metric] == "maximize"

    # Budget

    @property
    def budget(self) -> Budget:
        """What the sweep may spend; read anew each time, as others may extend a running sweep."""
        return attributes.read_budget(self._study)

    def set_budget(self, budget: Budget) -> None:
        """Let the sweep spend so much in all.

        Raises:
            ConfigError: more trials than that were handed out already.
        """
        if budget.num_trials is not None and budget.num_trials < self.num_asked():
            raise ConfigError(
                f"{self.name} has handed out {self.num_asked()} trials, so {budget.num_trials} are too few. "
                "To add some: --trials +20."
            )
        attributes.note(self._study, budget=budget.to_dict())

    @property
    def spent(self) -> Spent:
        """What the sweep has spent, as of its driver's newest note."""
        noted = self._study.user_attrs.get("spent", {})
        return Spent(**{**noted, "num_trials": self.num_asked()})

    def note_spent(self, spent: Spent) -> None:
        """Keep what was spent; the number of trials is the study's own to count."""
        attributes.note(self._study, spent=spent.to_dict())

    @property
    def ended_by(self) -> str | None:
        """Which budget is spent, for people; None while a trial may be started."""
        return ended_by(self.budget, self.spent)

    @property
    def is_over(self) -> bool:
        """Whether nothing of the sweep is left to run: a budget is spent, and no trial runs."""
        return self.ended_by is not None and all(r.state is not TrialState.running for r in self.rows())

    def num_asked(self) -> int:
        """Trials of the sweep's own that were handed out so far, whatever became of them."""
        storage, study_id = self._study._storage, self._study._study_id
        waiting = (optuna.trial.TrialState.WAITING,)
        num_waiting = len(storage.get_all_trials(study_id, deepcopy=False, states=waiting))
        return storage.get_n_trials(study_id) - num_waiting - len(self._not_own())

    def _not_own(self) -> set[int]:
        if self._foreign is None:
            trials = self._study.get_trials(deepcopy=False)
            self._foreign = {trial.number for trial in trials if is_foreign(trial)}
        return self._foreign

    # Before the search

    @property
    def is_prepared(self) -> bool:
        """Whether everything the search starts from is in the study."""
        return bool(self._study.user_attrs.get("prepared", False))

    def prepared(self) -> None:
        """Note that everything the search starts from is in the study."""
        attributes.note(self._study, prepared=True)

    def add_earlier(self, source: str, space: Space, params: Mapping[str, Any], row: TrialRow) -> None:
        """Let the sampler know a complete trial of another sweep; adding it twice changes nothing.

        Args:
            source: `SWEEP/NUMBER`.
            space: of this sweep.
            params: the sampler's parameters that stand for the trial in this space.
            row: its outcome holds every objective and every constrained metric.
        """
        trials = self._study.get_trials(deepcopy=False)
        if any(trial.user_attrs.get(EARLIER) == source for trial in trials):
            return
        fixed = optuna.trial.FixedTrial(dict(params))
        space.suggest(fixed)
        metrics = row.outcome.metrics
        made = optuna.trial.create_trial(
            params=fixed.params,
            distributions=fixed.distributions,
            values=[metrics[key] for key in self.goals.objectives],
            user_attrs={EARLIER: source},
            constraints=self.goals.violations(metrics) or None,
        )
        self._study.add_trial(made)
        self._foreign = None

    def enqueue(self, params: Mapping[str, Any]) -> None:
        """Hand a trial with these sampler parameters out next; parameters left out are drawn then.

        The same parameters wait once.
        """
        self._study.enqueue_trial(dict(params), skip_if_exists=True)

    # Ask

    def ask(self, space: Space) -> Assignment | TrialRow:
        """The next configuration, no one that the sweep had before.

        Returns:
            What is to be trained; or, where the parameters contradict each other, the row of the failed
            trial, so that the sampler moves on.

        Raises:
            Exhausted: suggestions keep repeating configurations.
        """
        for draw in range(2 * MAX_REDRAWS):
            with self._sampling_at_random() if draw >= MAX_REDRAWS else nullcontext():
                trial = self._study.ask()
                found = self._assign(trial, space)
            if isinstance(found, TrialRow):
                return found
            earlier = self._configurations.first_with(found.config, trial.number)
            if earlier == trial.number:
                return found
            self._tell_duplicate(trial, earlier)
        raise Exhausted(
            f"{2 * MAX_REDRAWS} suggestions in a row repeated configurations: the space seems exhausted"
        )

    def orphans(self, space: Space) -> list[Assignment]:
        """Trials left running by a driver that is gone: same numbers, same parameters."""
        running = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        kept = []
        for frozen in running:
            # A driver may die between two suggestions: a Trial of the same id keeps what was drawn and
            # draws the rest.
            trial = optuna.trial.Trial(self._study, frozen._trial_id)
            found = self._assign(trial, space)
            if isinstance(found, TrialRow):
                continue
            earlier = self._configurations.first_with(found.config, found.number)
            if earlier < found.number:  # it also may die before it says so
                self._tell_duplicate(trial, earlier)
            else:
                kept.append(as_changed(found, read_changes(frozen)))
        return kept

    @contextmanager
    def _sampling_at_random(self) -> Iterator[None]:
        before = self._study.sampler
        settings = SamplerSettings(name="random", seed=self._settings.seed)
        self._study.sampler = build(settings, 1 + self._study._storage.get_n_trials(self._study._study_id))
        try:
            yield
        finally:
            self._study.sampler = before

    def _assign(self, trial: optuna.trial.Trial, space: Space) -> Assignment | TrialRow:
        params = space.suggest(trial)
        given: dict[str, Any] = {"params": params, "overrides": space.overrides(params), "config": {}}
        try:
            given["config"] = space.apply(params).to_dict()
        except ValueError as error:
            trial.set_user_attr("given", json.dumps(given))
            self.fail(trial.number, str(error), Outcome())
            return self.row(trial.number)
        trial.set_user_attr("given", json.dumps(given))
        return Assignment(number=trial.number, **given)

    def _tell_duplicate(self, trial: optuna.trial.Trial, earlier: int) -> None:
        self._not_own().add(trial.number)
        tell_duplicate(self._study, trial, self._frozen(earlier))

    # Tell

    def change(self, number: int, change: Change) -> None:
        """A running trial goes on from another one's checkpoint; its row has the new configuration."""
        frozen = self._frozen(number)
        changes = [each.to_dict() for each in (*read_changes(frozen), change)]
        trial = optuna.trial.Trial(self._study, frozen._trial_id)
        trial.set_user_attr(CHANGES, json.dumps(changes))

    def complete(self, number: int, value: float | None, outcome: Outcome) -> None:
        """The trial ran to its end.

        Args:
            number: of the trial.
            value: of the first objective.
            outcome: its metrics hold the other objectives and what constraints are about; where one of
                them is missing or not finite, the trial failed.
        """
        metrics = {**outcome.metrics, **({} if value is None else {self.metric: value})}
        if why := self.goals.missing(metrics):
            self.fail(number, why, outcome)
            return
        self._tell(number, outcome, None, values=[metrics[key] for key in self.goals.objectives])

    def stop(self, number: int, value: float | None, fidelity: int, outcome: Outcome, reason: str) -> None:
        """The scheduler ended the trial at this fidelity (epochs, FLOPs or ms) with this value so far."""
        trial = self._unfinished(number)
        one_objective = len(self.goals.objectives) == 1  # Optuna takes no values on the way of several
        if trial is not None and one_objective and value is not None and math.isfinite(value):
            trial.report(value, step=fidelity)
        self._tell(number, outcome, reason, state=optuna.trial.TrialState.PRUNED)

    def reject(self, number: int, reason: str, outcome: Outcome) -> None:
        """The trial was infeasible: its preflight ended it before its first step.

        Samplers forget failed trials; of a trial that was stopped before it had a value they learn to stay
        away.
        """
        self._tell(number, outcome, reason, infeasible=True, state=optuna.trial.TrialState.PRUNED)

    def fail(self, number: int, reason: str, outcome: Outcome) -> None:
        """The trial failed; the sweep goes on."""
        self._tell(number, outcome, reason, state=optuna.trial.TrialState.FAIL)

    def _tell(
        self, number: int, outcome: Outcome, reason: str | None, infeasible: bool = False, **told: Any
    ) -> None:
        trial = self._unfinished(number)
        if trial is None:
            return
        for key, violation in self.goals.violations(outcome.metrics).items():
            if key not in trial.constraints:
                trial.set_constraint(key, violation)
        ended = {"reason": reason, "outcome": outcome.to_dict(), "infeasible": infeasible}
        trial.set_user_attr("ended", json.dumps(ended))
        self._study.tell(number, skip_if_finished=True, **told)

    def _unfinished(self, number: int) -> optuna.trial.Trial | None:
        frozen = self._frozen(number)
        return None if frozen.state.is_finished() else optuna.trial.Trial(self._study, frozen._trial_id)

    # Read

    def _frozen(self, number: int) -> FrozenTrial:
        storage, study_id = self._study._storage, self._study._study_id
        num = storage.get_n_trials(study_id)
        if not 0 <= number < num:
            raise KeyError(f"{self.name} has trials 0 to {num - 1}; there is no trial {number}.")
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def row(self, number: int) -> TrialRow:
        """One trial; KeyError where there is no such number."""
        return read_row(self._frozen(number), self.metric)

    def rows(self) -> list[TrialRow]:
        """Every trial of the sweep's own, by number."""
        trials = self._study.get_trials(deepcopy=False)
        return [read_row(trial, self.metric) for trial in trials if not is_foreign(trial)]

    def front(self) -> list[TrialRow]:
        """Complete trials that keep every constraint and that no other such trial beats; best first."""
        return ranking.front(self.rows(), self.goals)

    def rank(self) -> list[TrialRow]:
        """Complete trials: the front, those it beats by the first objective, those that break constraints.

        Ties keep the order of their numbers.
        """
        return ranking.rank(self.rows(), self.goals)

    def best(self) -> TrialRow | None:
        """The complete trial with the best first objective among those that keep every constraint."""
        return ranking.best(self.rows(), self.goals)

    def summary(self) -> StudyRow:
        """Counts, best value and age."""
        rows = self.rows()
        best = ranking.best(rows, self.goals)
        return StudyRow(
            name=self.name,
            started=min((row.started for row in rows if row.started), default=None),
            num_trials={state: sum(row.state is state for row in rows) for state in TrialState},
            best=best.value if best else None,
            metric=self.metric,
            budget=self.budget.num_trials,
            is_over=self.is_over,
        )
