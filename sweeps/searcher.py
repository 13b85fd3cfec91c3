"""Ray Tune asks, the study answers: trials are handed out until a budget is spent.

Tune's own state is disposable. A new Tuner starts with a new StudySearcher; trials that an earlier driver
left running are handed out first, under their old numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ray.tune.search import Searcher

from sweeps.fidelity import METRICS
from sweeps.search import Assignment, Exhausted, Outcome, Space, Study, TrialRow
from sweeps.turns import Turns


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """By what trials are compared."""

    fidelity: str  # result key that says how far a trial came: "epoch" or "metrics/cost/train_flops"


class StudySearcher(Searcher):
    """Ask and tell between Ray Tune and a Study.

    Args:
        study: owns trials and budget.
        space: what `study.ask` draws from.
        goal: fidelity.
        job: the plain values a worker gets for an assignment.
        capacity: how many trials fit at once, asked before each suggestion.
        on_end: called with the row of each trial that ended.
        failure: why the trial of this number failed, where its worker is gone.
        say: told what people should know.
        turns: of population-based training; None: every trial trains to its end.
    """

    def __init__(
        self,
        study: Study,
        space: Space,
        goal: Goal,
        *,
        job: Callable[[Assignment], dict[str, Any]],
        capacity: Callable[[], int],
        on_end: Callable[[TrialRow], None],
        failure: Callable[[int], str],
        say: Callable[[str], None],
        turns: Turns | None = None,
    ) -> None:
        super().__init__()
        self._study = study
        self._space = space
        self._goal = goal
        self._job = job
        self._capacity = capacity
        self._on_end = on_end
        self._failure = failure
        self._say = say
        self._orphans = study.orphans(space)
        self._turns = turns
        self._adopted = [orphan.number for orphan in self._orphans]
        if turns is not None:
            turns.adopt(self._orphans)
            self._orphans = []
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
        assignment = self._next() if self._turns is None else self._turns.next(self._next)
        if assignment is None:
            return None if self._numbers else str(Searcher.FINISHED)
        self._numbers[trial_id] = assignment.number
        self._live[assignment.number] = assignment
        return {"job": self._job(assignment)}

    def _next(self) -> Assignment | None:
        if self._orphans:
            return self._orphans.pop(0)
        while self._study.ended_by is None:
            try:
                found = self._study.ask(self._space)
            except Exhausted as error:
                self._say(f"no trials beyond {self._study.num_asked()}: {error}")
                self._study.set_budget(replace(self._study.budget, num_trials=self._study.num_asked()))
                return None
            if isinstance(found, Assignment):
                return found
            self._on_end(found)  # its parameters contradict each other
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Remember the newest report."""
        number = self._numbers[trial_id]
        self._last[number] = result
        if self._turns is not None:
            self._turns.reported(number, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how a trial ended.

        A worker that dies gives no result, a failed or infeasible trial one with its reason; a result
        without `finished` means that the scheduler ended the trial.
        """
        number = self._numbers.pop(trial_id)
        assignment = self._live.pop(number)
        if self._turns is not None:
            self._turns.reported(number, result or {})
            if result and result.get("turn_over"):
                self._turns.turn_ended(assignment)
                return
            self._turns.ended(number)
        last = self._last.pop(number, {})
        result = {**last, **(result or {})}
        outcome = _outcome(result)
        if error:
            self._study.fail(number, self._failure(number), outcome)
        elif result.get("infeasible"):
            self._study.reject(number, result["failed"], outcome)
        elif "failed" in result:
            self._study.fail(number, result["failed"], outcome)
        elif result.get("finished"):
            self._study.complete(number, outcome.metrics.get(self._study.metric), outcome)
        else:
            self._stopped(number, result, outcome)
        self._on_end(self._study.row(number))

    def _stopped(self, number: int, result: dict[str, Any], outcome: Outcome) -> None:
        reached = result.get(self._goal.fidelity, 0)
        # Optuna's steps are whole numbers: epochs, FLOPs, or milliseconds.
        step = reached * 1000 if self._goal.fidelity.endswith("_seconds") else reached
        what = "epoch" if self._goal.fidelity == "epoch" else self._goal.fidelity.removeprefix("metrics/")
        self._study.stop(
            number,
            outcome.metrics.get(self._study.metric),
            max(0, round(step)),
            outcome,
            f"behind other trials at {what} {reached:g}",
        )

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher into the storage path; the database address must not land there.
        return {}


def _outcome(result: dict[str, Any]) -> Outcome:
    prefix = f"{METRICS}/"
    metrics = {k.removeprefix(prefix): float(v) for k, v in result.items() if k.startswith(prefix)}
    return Outcome(
        metrics=metrics,
        step=int(result.get("step", 0)),
        epoch=float(result.get("epoch", 0.0)),
        num_grown=int(result.get("num_grown", 0)),
        num_pruned=int(result.get("num_pruned", 0)),
        checkpoint=result.get("checkpoint"),
    )
