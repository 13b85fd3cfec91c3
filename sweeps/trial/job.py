"""What a worker is told, as plain values: what to train, where, and how far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sweeps.config.settings import Fidelity

ROUNDING = 1 + 1e-9  # factor on a fraction, so that no trial is a report late because 3 * 0.1 > 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a worker is told: plain values only."""

    sweep: str
    number: int
    folder: str  # absolute, of this trial
    workdir: str  # where the sweep was launched: relative paths of a configuration start here
    config: dict[str, Any]  # TrialConfig.to_dict()
    base: dict[str, Any]  # a full trial of the sweep (`stopping.fidelity`); gives the scale of train FLOPs
    device: str  # "cpu" or "cuda"
    turn: dict[str, Any] | None = None  # a Turn; None: the trial trains to its end
    num_replicates: int = 1
    trial_seconds: float | None = None  # training, edits and evaluation, after which it is stopped
    hang_seconds: float | None = None  # without a report, after which its worker is ended

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `Job(**values)` reads them back."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """How far a trial trains before another one takes its slot."""

    fidelity: str
    full: float | None  # what a full trial takes: epochs or seconds; None: its FLOPs count
    until: float  # fraction of a full trial

    def is_over(self, report: Mapping[str, Any], full_train_flops: float) -> bool:
        """Whether a report (`epoch` and `metrics`, not flat) is the last of the turn."""
        metrics = report["metrics"]
        if self.full is None:
            reached = metrics["cost/train_flops"] / full_train_flops
        elif self.fidelity == Fidelity.epoch:
            reached = report["epoch"] / self.full
        else:
            reached = metrics["cost/wall_seconds"] / self.full
        return bool(reached * ROUNDING >= self.until)
