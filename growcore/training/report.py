"""What a training says: plain values, one report per evaluation; no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from growcore.edits.reports import EditRecord as EditRecord

if TYPE_CHECKING:  # reports are read where torch is not wanted
    from growcore.diagnostics import Finding


class TrialFailed(RuntimeError):
    """A training that cannot go on, for a reason that belongs to its configuration."""


class TrialInfeasible(TrialFailed):
    """A training that is not begun or not gone on with, because its network carries no signal."""


@dataclass(frozen=True, slots=True)
class Report:
    """State of a training at one evaluation."""

    step: int  # optimizer steps so far
    epoch: int  # epochs so far
    metrics: dict[str, float]
    edits: list[EditRecord]  # since the last report
    finished: bool  # the last report of the training; it alone carries test/* metrics
    findings: list[Finding] = field(default_factory=list)  # of the preflight, in the first report only

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)
