"""Commands over the life of a sweep: stop it, remove it, free what it holds of a disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sweeps.cli.command import Command
from sweeps.cli.options import ROOT, SWEEP, SWEEPS
from sweeps.config.errors import ConfigError

if TYPE_CHECKING:
    from sweeps.cli.command import Lines


@click.command(cls=Command)
@SWEEP
@ROOT
def stop(sweep_name: str, root: Path) -> Lines:
    r"""Stop a running sweep, wherever its driver runs, as Ctrl-C there would.

    Its running trials write a checkpoint; sweeps resume continues them:

    \b
        sweeps stop grow-prune-7f3a
    """
    from sweeps.run import manage

    yield from manage.stop(root, sweep_name)


@click.command(cls=Command)
@SWEEP
@ROOT
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-records", is_flag=True, help="Leave its records in MLflow.")
def rm(sweep_name: str, root: Path, yes: bool, keep_records: bool) -> Lines:
    r"""Remove a sweep for good: its study, its folder, its records.

    \b
        sweeps rm grow-prune-7f3a
        sweeps rm grow-prune-7f3a --yes --keep-records
    """
    from sweeps.run import manage

    def confirm(what: str) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            raise ConfigError(f"Nobody can be asked here. To remove {what}: add --yes.")
        return click.confirm(f"Remove {what}?")

    yield from manage.remove(root, sweep_name, keep_records, confirm)


@click.command(cls=Command)
@SWEEPS
@ROOT
@click.option(
    "--keep",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="Keep checkpoints of so many of the best trials.",
)
@click.option("--dry-run", is_flag=True, help="Only say how much would be freed.")
def gc(sweep_names: tuple[str, ...], root: Path, keep: int, dry_run: bool) -> Lines:
    r"""Free disk space: remove checkpoints of trials that ended, except for the best.

    Without SWEEP: of all sweeps. What runs or is to be continued keeps its checkpoints:

    \b
        sweeps gc --dry-run
        sweeps gc grow-prune-7f3a --keep 1
    """
    from sweeps.run import manage

    yield from manage.collect(root, sweep_names, keep, dry_run)
