"""What becomes of a trial whose network will not carry a signal, untrained or after an edit."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from growcore.config import Preflight
from growcore.data import DataSet
from growcore.diagnostics import Finding, Severity
from growcore.diagnostics.checks import Check, inspect, path_finding
from growcore.edits.reports import EditRecord
from growcore.training.report import TrialInfeasible


def before_training(model: nn.Module, data: DataSet, policy: Preflight) -> Check:
    """`inspect`, which ends the trial where the policy is `fail` and training would be hopeless.

    Raises:
        TrialInfeasible: the first finding that says so, with its fix.
        ValueError: as `inspect`.
    """
    check = inspect(model, data)
    if check.failures and policy == Preflight.fail:
        raise _infeasible(check.failures[0])
    return check


def after_edits(model: nn.Module, data: DataSet, edits: Sequence[EditRecord], policy: Preflight) -> None:
    """End the trial where the policy is `fail` and edits have cut every output from the input.

    Raises:
        TrialInfeasible: that no path is left, with a fix.
    """
    if policy != Preflight.fail or all(edit.kind == "skip" for edit in edits):
        return
    cut = path_finding(model, data)
    if cut is not None and cut.severity == Severity.fail:
        raise _infeasible(cut)


def _infeasible(finding: Finding) -> TrialInfeasible:
    return TrialInfeasible(
        f"{finding.layer}: {finding.reason} {finding.fix} (preflight=warn trains it all the same.)"
    )
