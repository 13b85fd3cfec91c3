"""One sweep: every trial, what was spent, and what it was launched with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeps.config.settings import SweepConfig
from sweeps.kept.budget import described
from sweeps.records import disk
from sweeps.views import leaderboard


def lines(root: Path, name: str, width: int | None) -> list[str]:
    """For people; the table is cut to so many characters a line."""
    plan, study = disk.read_plan(root, name), disk.open_study(root, name)
    num_replicates = SweepConfig.from_dict(plan["config"]).sweep.replicates
    return [
        f"{name}  {leaderboard.counts(study, num_replicates)}",
        *leaderboard.table(
            study, width=width, reached=leaderboard.reached_in(root / name), known=disk.metrics_of(plan)
        ),
        f"spent: {described(study.budget, study.spent)}",
        f"launched {plan['created']} by: {plan['command']}",
    ]


def values(root: Path, name: str) -> dict[str, Any]:
    """For scripts."""
    plan, study = disk.read_plan(root, name), disk.open_study(root, name)
    return {
        "name": name,
        "metric": study.metric,
        "command": plan["command"],
        "commit": plan["commit"],
        "budget": study.budget.to_dict(),
        "spent": study.spent.to_dict(),
        "trials": [asdict(e) for e in leaderboard.entries(study, leaderboard.reached_in(root / name))],
    }
