"""Sweeps from plan to result: launch and resume them, and let them run more.

Optuna's study owns the trials, so starting and resuming are the same (`sweeps.run.driver`): a new Tuner every
time, whose searcher hands out what an earlier driver left running and then asks until a budget is spent.
"""

from __future__ import annotations

import secrets
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweeps.config.errors import ConfigError
from sweeps.config.settings import SweepConfig
from sweeps.kept import budget as budgets
from sweeps.kept.events import FORMAT
from sweeps.records import disk
from sweeps.run import checks, warm_start
from sweeps.run.driver import Driver
from sweeps.run.result import Result
from sweeps.search import Goals
from sweeps.space import encoding
from sweeps.space.search_space import SearchSpace


def new_name(config: SweepConfig) -> str:
    """`sweep.name`, or the space and four hex digits: grow-prune-7f3a."""
    if config.sweep.name is not None:
        return config.sweep.name
    return f"{config.space_name.replace('_', '-')}-{secrets.token_hex(2)}"


def launch(config: SweepConfig, name: str, command: list[str], trainable: type[Any] | None = None) -> Result:
    """Run a new sweep to its end.

    Args:
        config: the whole request.
        name: of the sweep, also its folder under `storage.root`.
        command: the words the user typed, for the records.
        trainable: a Tune Trainable class in place of `sweeps.trial.worker.SweepTrial`.

    Raises:
        ConfigError: the request cannot be met; nothing was started.
    """
    folder = Path(config.storage.root).absolute() / name
    if folder.exists():
        raise ConfigError(checks.exists(folder))
    plan = {
        "format": FORMAT,
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "commit": git_commit(),
        "workdir": str(Path.cwd()),
        "metrics": checks.own_metrics(config),
        "config": config.to_dict(),
    }
    return Driver(config, folder, plan, trainable).start(is_new=True)


def notes(config: SweepConfig, space: SearchSpace) -> list[str]:
    """What people should know of a search before it starts: what its sampler cannot do, where it starts.

    Raises:
        ConfigError: the search cannot be done, or starts from what is not there.
    """
    checks.check_budget(config)
    found = checks.check_metrics(config)
    goals, root = Goals.of(config.search), Path(config.storage.root)
    earlier = [disk.read_earlier(root, name) for name in config.search.warm_start]
    notes = [warm_start.warm_start(space, goals, each).note for each in earlier]
    return [*found, *checks.check_search(config, space), *notes]


def extend(root: Path, name: str, more: Mapping[str, str]) -> list[str]:
    """Change what a sweep may spend; a running one goes on, another is to be resumed.

    Args:
        root: storage root.
        name: of the sweep.
        more: field of `sweeps.kept.budget.Budget` -> `+20` for so much more, `84` for so much in all.

    Returns:
        Its new budgets in words.

    Raises:
        ConfigError: there is no such sweep, or it has spent more already.
    """
    study = disk.open_study(root, name)
    budget, spent = study.budget, study.spent
    for field, words in more.items():
        budget = budgets.amended(budget, spent, field, words)
    if "gpu_hours" in more and not disk.read_config(root, name).cluster.gpus_per_trial:
        raise ConfigError(f"--gpu-hours: trials of {name} hold no GPU. Limit its wall time: --hours +2.")
    study.set_budget(budget)
    return budgets.limits(budget)


def enqueue(root: Path, name: str, words: Sequence[str]) -> int | None:
    """Add a trial to a sweep, to be handed out next; keys not given are drawn by its sampler.

    Args:
        root: storage root.
        name: of the sweep.
        words: `KEY=VALUE` of searched keys.

    Returns:
        How many trials the sweep may run now: one more; None where it counts none.

    Raises:
        ConfigError: there is no such sweep, or a value is not of its space.
    """
    config = disk.read_config(root, name)
    params = encoding.typed(SearchSpace.of(config), words)
    study = disk.open_study(root, name)
    # The budget first: a driver that finds the trial finds room for it.
    if (num := study.budget.num_trials) is not None:
        study.set_budget(replace(study.budget, num_trials=num + 1))
    study.enqueue(params)
    return study.budget.num_trials


def resume(root: Path, name: str, trainable: type[Any] | None = None) -> Result:
    """Run what is left of a sweep: trials that were running continue, then the rest of the budget.

    Raises:
        ConfigError: there is no such sweep under `root`, or its request cannot be met now.
    """
    plan = disk.read_plan(root, name)
    config = SweepConfig.from_dict(plan["config"])
    config.storage.root = str(root.absolute())
    return Driver(config, root.absolute() / name, plan, trainable).start(is_new=False)


def git_commit() -> str | None:
    """The commit of the working folder, `-dirty` where files differ; None outside git."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None
