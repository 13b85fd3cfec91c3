"""What becomes of a trial whose untrained network will not carry a signal."""

from __future__ import annotations

from torch import nn

from growcore.config import Preflight
from growcore.data import DataSet
from growcore.diagnostics.checks import Check, inspect
from growcore.training.report import TrialInfeasible


def before_training(model: nn.Module, data: DataSet, policy: Preflight) -> Check:
    """`inspect`, which ends the trial where the policy is `fail` and training would be hopeless.

    Raises:
        TrialInfeasible: the first finding that says so, with its fix.
        ValueError: as `inspect`.
    """
    check = inspect(model, data)
    if check.failures and policy == Preflight.fail:
        first = check.failures[0]
        raise TrialInfeasible(
            f"{first.layer}: {first.reason} {first.fix} (preflight=warn trains it all the same.)"
        )
    return check
