"""Ray Tune asks, the study answers: trials are handed out until a budget is spent.

Tune's own state is disposable. A new Tuner starts with a new StudySearcher; trials that an earlier driver
left running are handed out first, under their old numbers. A trial of Tune's is one attempt at one of ours:
where an attempt is not the trial's end, the trial is handed out again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ray.tune.search import Searcher

from sweeps.kept.endings import Ending, Next
from sweeps.kept.trials import Assignment, Outcome, TrialRow
from sweeps.run.attempts import Attempts
from sweeps.search import Exhausted, Space, Study
from sweeps.stopping.fidelity import METRICS
from sweeps.stopping.population import Population


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """By what trials are compared."""

    fidelity: str  # result key that says how far a trial came: "epoch" or "metrics/cost/train_flops"


class Listener(Protocol):
    """Hears of trials that leave the hands of the searcher."""

    def paused(self, number: int) -> None:
        """A trial gave its slot back and goes on later."""

    def ended(self, row: TrialRow) -> None:
        """A trial ended."""

    def give_up(self, reason: str) -> None:
        """The sweep cannot go on."""

    def say(self, text: str) -> None:
        """Something people should know."""


class StudySearcher(Searcher):
    """Ask and tell between Ray Tune and a Study.

    Args:
        study: owns trials and budget.
        space: what `study.ask` draws from.
        goal: fidelity.
        job: the plain values a worker gets for an assignment.
        capacity: how many trials fit at once, asked before each suggestion.
        attempts: judges attempts that are not a trial's end.
        listener: hears how trials end.
        population: of population-based training; None: every trial trains to its end.
    """

    def __init__(
        self,
        study: Study,
        space: Space,
        goal: Goal,
        *,
        job: Callable[[Assignment], dict[str, Any]],
        capacity: Callable[[], int],
        attempts: Attempts,
        listener: Listener,
        population: Population | None = None,
    ) -> None:
        super().__init__()
        self._study = study
        self._space = space
        self._goal = goal
        self._job = job
        self._capacity = capacity
        self._attempts = attempts
        self._listener = listener
        self._population = population
        orphans = study.orphans(space)
        self._adopted = [orphan.number for orphan in orphans]
        attempts.adopt(self._adopted)
        self._waiting = orphans if population is None else []  # begun, and to go on before any new one
        if population is not None:
            population.adopt(orphans)
        self._live: dict[int, Assignment] = {}
        self._numbers: dict[str, int] = {}  # of live trials, by Tune's trial id
        self._last: dict[int, dict[str, Any]] = {}

    @property
    def adopted(self) -> list[int]:
        """Numbers of trials that an earlier driver left running."""
        return self._adopted

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next job; None while every slot is taken, or nothing is left but trials that still run, as
        others may add to the sweep; FINISHED when its budget is spent.
        """
        if len(self._numbers) >= self._capacity():
            return None
        assignment = self._next() if self._population is None else self._population.next(self._next)
        if assignment is None:
            return None if self._numbers else str(Searcher.FINISHED)
        self._numbers[trial_id] = assignment.number
        self._live[assignment.number] = assignment
        return {"job": self._job(assignment)}

    def _next(self) -> Assignment | None:
        if self._waiting:
            return self._waiting.pop(0)
        while self._study.ended_by is None:
            try:
                found = self._study.ask(self._space)
            except Exhausted as error:
                self._listener.say(f"no trials beyond {self._study.num_asked()}: {error}")
                self._study.set_budget(replace(self._study.budget, num_trials=self._study.num_asked()))
                return None
            if isinstance(found, Assignment):
                return found
            self._listener.ended(found)  # its parameters contradict each other
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Remember the newest report."""
        number = self._numbers[trial_id]
        self._last[number] = result
        self._pass_on(number, result)
        if self._population is not None:
            self._population.reported(number, result)

    def _pass_on(self, number: int, result: Mapping[str, Any]) -> None:
        for note in result.get("notes", ()):
            self._listener.say(f"#{number:<3d} {note}")

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """An attempt is over: tell the study how its trial ended, or hand the trial out again.

        A worker that dies gives no result; a result without an ending means that the scheduler ended the
        trial.
        """
        result = result or {}
        number = self._numbers.pop(trial_id)
        assignment = self._live.pop(number)
        self._pass_on(number, result)
        if self._population is not None:
            self._population.reported(number, result)
        ending, reason = self._attempts.lost(number) if error else _ending(result)
        result = {**self._last.get(number, {}), **result}
        match self._attempts.following(number, ending, reason):
            case Next.again:
                self._again(assignment)
            case Next.wait:
                assert self._population is not None
                self._listener.paused(number)
                self._population.turn_ended(assignment)
            case Next.leave:
                self._listener.give_up(f"{reason}. Running trials go on when the sweep is resumed")
            case Next.tell:
                self._tell(number, ending, reason, result)

    def _again(self, assignment: Assignment) -> None:
        self._listener.paused(assignment.number)
        if self._population is None:
            self._waiting.append(assignment)
        else:
            self._population.returned(assignment)

    def _tell(
        self, number: int, ending: Ending | None, reason: str | None, result: Mapping[str, Any]
    ) -> None:
        outcome = _outcome(result)
        if self._population is not None:
            self._population.ended(number)
        self._last.pop(number, None)
        match ending:
            case Ending.finished:
                self._study.complete(number, outcome.metrics.get(self._study.metric), outcome)
            case Ending.infeasible:
                self._study.reject(number, reason or "", outcome)
            case None:
                self._stopped(number, result, outcome, None)
            case Ending.expired:
                self._stopped(number, result, outcome, f"its time is over (cluster.trial_seconds): {reason}")
            case _:
                self._study.fail(number, self._attempts.verdict(number, reason), outcome)
        self._listener.ended(self._study.row(number))

    def _stopped(self, number: int, result: Mapping[str, Any], outcome: Outcome, reason: str | None) -> None:
        reached = result.get(self._goal.fidelity, 0)
        # Optuna's steps are whole numbers: epochs, FLOPs, or milliseconds.
        step = reached * 1000 if self._goal.fidelity.endswith("_seconds") else reached
        what = "epoch" if self._goal.fidelity == "epoch" else self._goal.fidelity.removeprefix("metrics/")
        self._study.stop(
            number,
            outcome.metrics.get(self._study.metric),
            max(0, round(step)),
            outcome,
            reason or f"behind other trials at {what} {reached:g}",
        )

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher into the storage path; the database address must not land there.
        return {}


def _ending(result: Mapping[str, Any]) -> tuple[Ending | None, str | None]:
    said = result.get("ending")
    return (Ending(said) if said else None), result.get("reason")


def _outcome(result: Mapping[str, Any]) -> Outcome:
    prefix = f"{METRICS}/"
    metrics = {k.removeprefix(prefix): float(v) for k, v in result.items() if k.startswith(prefix)}
    return Outcome(
        metrics=metrics,
        step=int(result.get("step", 0)),
        epoch=float(result.get("epoch", 0.0)),
        num_grown=int(result.get("num_grown", 0)),
        num_pruned=int(result.get("num_pruned", 0)),
        checkpoint=result.get("checkpoint"),
        replicates=list(result.get("replicates", ())),
    )
