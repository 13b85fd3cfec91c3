"""The command `sweeps`; each subcommand is a few lines that call one function of the package.

Nothing heavy is imported here: Hydra, Ray, Optuna, MLflow and torch come in where they are used, so that
`--help` and wrong requests answer at once.

Exit codes: 0 done, 2 the request was wrong, 3 it ran and failed, 130 interrupted and resumable.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import click

from sweeps.config import ConfigError

WRONG_REQUEST, FAILED, INTERRUPTED = 2, 3, 130
_NUM_SAMPLED = 3  # trials that a dry run shows


class Command(click.Command):
    """A subcommand that ends with one message and the right exit code; --debug shows where it came from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(["--debug"], is_flag=True, help="Show the traceback of an error.", expose_value=True)
        )

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; errors become messages on stderr."""
        debug = ctx.params.pop("debug")
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except ConfigError as error:
            _say(f"error: {error}", debug)
            ctx.exit(WRONG_REQUEST)
        except KeyboardInterrupt:
            _say("interrupted", debug)
            ctx.exit(INTERRUPTED)
        except Exception as error:  # whatever failed, its user gets one message
            hint = "" if debug else " (--debug shows where)"
            _say(f"failed: {type(error).__name__}: {error}{hint}", debug)
            ctx.exit(FAILED)


def _say(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    click.echo(message, err=True)


class Commands(click.Group):
    """A group whose subcommands are `Command`s, listed in the order in which they are written."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As written."""
        return list(self.commands)


_OVERRIDES = click.argument("overrides", nargs=-1)
_CONFIG_DIRS = click.option(
    "--config-dir",
    "config_dirs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A folder of configuration files of yours, searched before ./conf and ours; may be repeated.",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="growsweep")
def main() -> None:
    """Search over how a neural network should grow and be pruned while it trains."""


@main.command()
@_OVERRIDES
@_CONFIG_DIRS
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
@click.option("--dry-run", is_flag=True, help="Print the plan and a few sampled trials; start nothing.")
def launch(
    overrides: tuple[str, ...],
    config_dirs: tuple[Path, ...],
    searches: tuple[str, ...],
    fixes: tuple[str, ...],
    dry_run: bool,
) -> None:
    r"""Start a sweep.

    OVERRIDES choose files, GROUP=OPTION (data, model, growth, pruning, optimizer, training, space, search,
    scheduler, cluster, tracking), start from an exported trial, best=NAME, or set values, KEY=VALUE:

    \b
        sweeps launch data=fashion_mnist model=conv space=grow_prune sweep.num_trials=64
        sweeps launch best=fashion-small space=fine
        sweeps launch --fix pruning.k2=0.5 --search training.batch_size='{choice: [32, 64]}'
    """
    from sweeps import plan
    from sweeps.compose import load
    from sweeps.space import SearchSpace

    config = load(overrides, config_dirs, searches=searches, fixes=fixes)
    space = SearchSpace.of(config)
    if dry_run:
        name = config.sweep.name or f"{config.space_name.replace('_', '-')}-XXXX"
        plan.show(plan.render(config, space, name, num_samples=_NUM_SAMPLED))
        click.echo("\nNothing was started: leave out --dry-run to launch.")
        return
    from sweeps import sweep

    name = sweep.new_name(config)
    plan.show(plan.render(config, space, name))
    result = sweep.launch(config, name, ["sweeps", *sys.argv[1:]])
    if result.interrupted:
        raise click.exceptions.Exit(INTERRUPTED)
    if result.best is None:
        raise click.exceptions.Exit(FAILED)
