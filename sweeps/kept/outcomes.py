"""What a trial that runs has come to so far, from its folder: as the study hears of it when it ends."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from sweeps.kept import events, replicates
from sweeps.kept.trials import Outcome


def outcome_so_far(folder: Path) -> Outcome | None:
    """The newest report of a trial and its edits until then; None before its first report.

    Replicates may be ahead of the newest mean: what they did beyond it is left out.
    """
    told = events.reports(folder)
    if not told:
        return None
    newest = told[-1]
    reports = [events.reports(each) for each in replicates.found(folder)] or [told]
    level = [[report for report in each if report["step"] <= newest["step"]] for each in reports]
    edits = Counter(edit["kind"] for each in level for report in each for edit in report["edits"])
    metrics = [each[-1]["metrics"] for each in level if each]
    return Outcome(
        metrics=newest["metrics"],
        step=newest["step"],
        epoch=newest["epoch"],
        num_grown=edits["grow"],
        num_pruned=edits["prune"] + edits["remove"],
        replicates=metrics if len(metrics) > 1 else [],
    )
