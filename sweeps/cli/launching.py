"""Commands that start a sweep, continue it, and let it run more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sweeps.cli.command import DONE, FAILED, INTERRUPTED, Command
from sweeps.cli.options import CONFIG_DIRS, OVERRIDES, ROOT, SWEEP
from sweeps.config.errors import ConfigError

if TYPE_CHECKING:
    from sweeps.cli.command import Answer, Lines
    from sweeps.run.result import Result

_NUM_SAMPLED = 3  # trials that a dry run shows
_EXIT_CODES = {"failed": FAILED, "interrupted": INTERRUPTED, "complete": DONE}


@click.command(cls=Command)
@OVERRIDES
@CONFIG_DIRS
@click.option(
    "--search",
    "searches",
    multiple=True,
    metavar="KEY=DISTRIBUTION",
    help="Put a key into the space, as in optimizer.lr='{float: [1e-3, 1], log: true}'; may be repeated.",
)
@click.option(
    "--fix",
    "fixes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Take a key out of the space and set it for all trials; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan, sampled trials and their cost; start nothing.")
def launch(
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    searches: tuple[str, ...],
    fixes: tuple[str, ...],
    dry_run: bool,
) -> Answer:
    r"""Start a sweep.

    OVERRIDES choose files, GROUP=OPTION (data, model, growth, pruning, optimizer, training, space, search,
    scheduler, cluster, tracking), start from an exported trial, best=NAME, or set values, KEY=VALUE:

    \b
        sweeps launch data=fashion_mnist model=conv space=grow_prune sweep.num_trials=64
        sweeps launch best=fashion-small space=fine
        sweeps launch --fix pruning.k2=0.5 --search training.batch_size='{choice: [32, 64]}'
    """
    from sweeps.config.compose import load
    from sweeps.space import idle
    from sweeps.space.search_space import SearchSpace

    config = load(overrides, config_dirs, searches=searches, fixes=fixes)
    space = SearchSpace.of(config)
    notes = idle.check(config, space)
    from sweeps.run import sweep  # after the checks above, which need no Optuna
    from sweeps.views import plan

    notes += sweep.notes(config, space)
    if dry_run:
        name = config.sweep.name or f"{config.space_name.replace('_', '-')}-XXXX"
        yield plan.render(config, space, name, notes, num_samples=_NUM_SAMPLED)
        yield ""  # the plan is there to read while trials are timed
        yield plan.cost(config, space)
        yield "\nNothing was started: leave out --dry-run to launch."
        return DONE
    name = sweep.new_name(config)
    yield plan.render(config, space, name, notes)
    yield ""
    return (yield from _concluded(sweep.launch(config, name, ["sweeps", *sys.argv[1:]])))


@click.command(cls=Command)
@SWEEP
@ROOT
def resume(sweep_name: str, root: Path) -> Answer:
    """Continue a sweep that was interrupted: what was running, then the rest of its trials."""
    from sweeps.run import sweep

    return (yield from _concluded(sweep.resume(root, sweep_name)))


def _concluded(result: Result) -> Answer:
    from sweeps.cli.closing import closing

    yield from closing(result)
    return _EXIT_CODES[result.status]


@click.command(cls=Command)
@SWEEP
@ROOT
@click.option("--trials", metavar="+NUMBER", help="So many more; without +: so many in all.")
@click.option("--hours", metavar="+HOURS", help="So many more wall hours, likewise.")
@click.option("--gpu-hours", metavar="+HOURS", help="So many more GPU hours, likewise.")
@click.option("--train-flops", metavar="+FLOPS", help="So many more FLOPs of training, likewise.")
def extend(
    sweep_name: str,
    root: Path,
    trials: str | None,
    hours: str | None,
    gpu_hours: str | None,
    train_flops: str | None,
) -> Lines:
    r"""Let a sweep run more: a running one goes on, another is to be resumed.

    \b
        sweeps extend grow-prune-7f3a --trials +20
        sweeps extend grow-prune-7f3a --hours +2 --train-flops 1e14
    """
    from sweeps.run import sweep

    words = {"num_trials": trials, "hours": hours, "gpu_hours": gpu_hours, "train_flops": train_flops}
    more = {field: word for field, word in words.items() if word is not None}
    if not more:
        raise ConfigError("Say what there is to be more of, as in --trials +20, --hours +2 or both.")
    limits = " or ".join(sweep.extend(root, sweep_name, more))
    yield _goes_on(root, sweep_name, f"{sweep_name} may run {limits} now")


@click.command(cls=Command)
@SWEEP
@click.argument("values", nargs=-1, required=True, metavar="KEY=VALUE...")
@ROOT
def enqueue(sweep_name: str, values: tuple[str, ...], root: Path) -> Lines:
    r"""Add a trial of yours to a sweep, to be run next.

    KEY=VALUE set searched keys; the sampler draws the others:

    \b
        sweeps enqueue grow-prune-7f3a pruning.k1=0.3 optimizer.lr=0.05
    """
    from sweeps.run import sweep

    num_trials = sweep.enqueue(root, sweep_name, values)
    room = "" if num_trials is None else f", which may run {num_trials} now"
    yield _goes_on(root, sweep_name, f"{' '.join(values)} is the next trial of {sweep_name}{room}")


def _goes_on(root: Path, name: str, said: str) -> str:
    from sweeps.views.command_line import resume as command

    return f"{said}. If it is not running: {command(root.absolute(), name)}"
