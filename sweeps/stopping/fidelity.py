"""How far a trial has come: the fidelity by which trials are compared, as fractions of a full trial.

A full trial is the whole training of the configuration that all trials share, over as many epochs as any of
them has. Where `training.num_epochs` is searched, a fraction so means the same work in every trial: they are
compared at equal work, and a shorter one up to its own end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeps.config.settings import Fidelity, SchedulerConfig, SweepConfig
from sweeps.space.search_space import SearchSpace
from sweeps.trial.job import ROUNDING, Turn

_EPOCHS = {"training", "training.num_epochs"}  # what a space must name for trials of different lengths
METRICS = "metrics"  # prefix of report metrics in a Tune result: metrics/val/accuracy

_KEYS = {
    Fidelity.epoch: "epoch",
    Fidelity.train_flops: f"{METRICS}/cost/train_flops",
    Fidelity.seconds: f"{METRICS}/cost/wall_seconds",
}


def fidelity_key(config: SchedulerConfig) -> str:
    """The result key that says how far a trial came."""
    return _KEYS[config.fidelity]


def full_trial(config: SweepConfig) -> dict[str, Any]:
    """What a full trial trains, as `TrialConfig.to_dict`."""
    trial = config.trial.to_dict()
    if not _EPOCHS.isdisjoint(config.space):
        trial["training"]["num_epochs"] = int(SearchSpace.of(config).range("training.num_epochs")[1])
    return trial


class Scale:
    """How far a trial has come, as a fraction of a full trial.

    What a full trial takes is known for epochs, and for train FLOPs from the first report on. In seconds it
    is estimated: the seconds per FLOP of all trials so far, times the FLOPs of a full trial. The estimate
    gets better with every report until the first trial reaches the fraction `fixed_from`; from then on it
    stays, so that all trials are compared at equal seconds.
    """

    def __init__(self, config: SweepConfig, fixed_from: float) -> None:
        self._fidelity = config.scheduler.fidelity
        self._num_epochs: int = full_trial(config)["training"]["num_epochs"]
        self._fixed_from = fixed_from
        self._newest: dict[str, tuple[float, float]] = {}  # trial -> (FLOPs, seconds)
        self.full_seconds: float | None = None  # of a full trial, once fixed

    def turn(self, until: float) -> Turn:
        """The turn up to this fraction; before the seconds of a full trial are known, its FLOPs count."""
        full = {Fidelity.epoch: float(self._num_epochs), Fidelity.seconds: self.full_seconds}
        return Turn(fidelity=self._fidelity.value, full=full.get(self._fidelity), until=until)

    def fraction(self, trial: str, result: Mapping[str, Any]) -> float:
        """Of a report, at least 0; above 1 where the trial is larger than the base."""
        if self._fidelity is Fidelity.epoch:
            return float(result[_KEYS[Fidelity.epoch]]) / self._num_epochs
        flops = float(result[_KEYS[Fidelity.train_flops]])
        if self._fidelity is Fidelity.train_flops:
            return flops / float(result["full_train_flops"])
        seconds = float(result[_KEYS[Fidelity.seconds]])
        return self._of_seconds(trial, flops, seconds, float(result["full_train_flops"]))

    def _of_seconds(self, trial: str, flops: float, seconds: float, full_flops: float) -> float:
        if self.full_seconds is not None:
            return seconds / self.full_seconds
        self._newest[trial] = flops, seconds
        all_flops, all_seconds = map(sum, zip(*self._newest.values(), strict=True))
        full = full_flops * all_seconds / all_flops
        if seconds / full * ROUNDING >= self._fixed_from:
            self.full_seconds = full
        return seconds / full


@dataclass(slots=True)
class _Edits:
    count: int = 0  # seen so far
    until: float = -1.0  # fraction at which the newest window ends
    judged: bool = True  # whether a report came outside of windows since


class EditGrace:
    """Windows after an edit in which a trial is not judged: growth and pruning cost accuracy at first.

    A window opens at the first report after an edit and stays open for `window` of a full trial. The next
    one opens no sooner than a window's length after that and one judged report, whatever is edited
    meanwhile: a trial that edits all the time is judged about half of the time, and none is immortal.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._trials: dict[str, _Edits] = {}

    def holds(self, trial: str, fraction: float, num_edits: int) -> bool:
        """Whether the trial is in a window at this report, which has to be its newest.

        Args:
            trial: its name.
            fraction: of a full trial, at the report.
            num_edits: of the trial so far.
        """
        seen = self._trials.setdefault(trial, _Edits())
        edited, seen.count = num_edits > seen.count, num_edits
        if seen.judged and edited and fraction * ROUNDING >= seen.until + self._window:
            seen.until, seen.judged = fraction + self._window, False
        is_open = fraction * ROUNDING < seen.until
        seen.judged = seen.judged or not is_open
        return is_open


def num_edits(result: Mapping[str, Any]) -> int:
    """Edits of a trial up to a report, of every kind."""
    return int(result.get("num_grown", 0)) + int(result.get("num_pruned", 0))
