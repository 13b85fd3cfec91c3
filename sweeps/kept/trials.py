"""Trials and sweeps as plain values: what a study hands out and gives back, and what records are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sweeps.kept.replicates import standard_errors


class TrialState(StrEnum):
    """Where a trial stands.

    `stopped`: the scheduler ended it before its last epoch; `infeasible`: its preflight did before its first.
    """

    waiting = "waiting"  # given by hand, not handed out yet
    running = "running"
    complete = "complete"
    stopped = "stopped"
    infeasible = "infeasible"
    failed = "failed"

    @property
    def has_ended(self) -> bool:
        """Whether nothing of the trial is left to run."""
        return self not in (TrialState.waiting, TrialState.running)


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """One configuration that is to be trained, under its number in the sweep."""

    number: int
    params: dict[str, Any]  # dotted trial key -> value
    overrides: list[str]  # the same as command-line overrides
    config: dict[str, Any]  # TrialConfig.to_dict()


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A trial went on from another one's checkpoint, under a configuration of its own."""

    fraction: float  # of a full trial, that the trial had reached
    donor: int  # number of the other one
    donor_fraction: float  # that the checkpoint has reached
    step: int  # of the checkpoint
    # Costs (`cost/*`) so far; both empty in studies of before they were kept.
    own: dict[str, float] = field(default_factory=dict)  # of the trial, whose training ends here
    taken: dict[str, float] = field(
        default_factory=dict
    )  # of the checkpoint: another trial's, not to be counted again
    params: dict[str, Any]  # from here on
    overrides: list[str]
    config: dict[str, Any]

    @property
    def told(self) -> str:
        """For people: `continued #3 at 40%`."""
        return f"continued #{self.donor} at {self.fraction:.0%}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `Change(**values)` reads them back."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What is known of a trial when it ends."""

    metrics: dict[str, float] = field(default_factory=dict)  # of its last report; means over replicates
    step: int = 0
    epoch: float = 0.0
    num_grown: int = 0  # edits that added neurons, in all replicates together
    num_pruned: int = 0  # edits that removed neurons, or pruned or restarted connections, likewise
    checkpoint: str | None = None  # folder; of several replicates that of the first
    replicates: list[dict[str, float]] = field(default_factory=list)  # metrics of each; empty where one

    @property
    def errors(self) -> dict[str, float]:
        """Standard errors of the metrics, by key; empty where a configuration was trained once."""
        return standard_errors(self.replicates)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `Outcome(**values)` reads them back."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRow:
    """One trial as the study knows it."""

    number: int
    state: TrialState
    reason: str | None  # why it failed, was stopped or not begun
    params: dict[str, Any]  # the newest, as overrides and config
    overrides: list[str]
    config: dict[str, Any]
    value: float | None  # the first objective; of a stopped trial: at the fidelity it reached
    values: tuple[float, ...]  # of every objective; empty unless the trial is complete
    violations: dict[str, float]  # broken constraint -> by how much, as a fraction of its limit
    outcome: Outcome
    started: datetime | None
    ended: datetime | None
    changes: tuple[Change, ...] = ()  # of population-based training, in order

    def executed(self, key: str) -> float:
        """A cost (`cost/*`) of what this trial trained itself; what it took over is its donors'."""
        return self.outcome.metrics.get(key, 0.0) + beyond_report(self.changes, key)

    @property
    def seconds(self) -> float:
        """Wall seconds from ask to tell; 0 while it runs."""
        return (self.ended - self.started).total_seconds() if self.started and self.ended else 0.0


def beyond_report(changes: Iterable[Change], key: str) -> float:
    """What to add to a reported cost, which is that of a network, for that of a trial.

    The report counts what donors had spent on their checkpoints, and not what the trial had spent on the
    networks that it gave up.
    """
    return sum(change.own.get(key, 0.0) - change.taken.get(key, 0.0) for change in changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRow:
    """One sweep in a list of sweeps."""

    name: str
    started: datetime | None
    num_trials: dict[TrialState, int]
    best: float | None
    metric: str
    budget: int | None  # trials; None: another budget ends the sweep
    is_over: bool  # nothing is left to run
