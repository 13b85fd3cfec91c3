"""The command `sweeps`; each subcommand is a few lines that call one function of the package.

Nothing heavy is imported here: Hydra, Ray, Optuna, MLflow and torch come in where they are used, so that
`--help` and wrong requests answer at once.

Exit codes: 0 done, 2 the request was wrong, 3 it ran and failed, 130 interrupted and resumable.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeps.config.schema import ConfigError

if TYPE_CHECKING:
    from sweeps.run import sweep

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
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click answers these itself; the last is that of `sweeps logs SWEEP/3 | head`
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
@click.option("--dry-run", is_flag=True, help="Print the plan, sampled trials and their cost; start nothing.")
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
    from sweeps.config.compose import load
    from sweeps.space.search_space import SearchSpace
    from sweeps.views import plan

    config = load(overrides, config_dirs, searches=searches, fixes=fixes)
    space = SearchSpace.of(config)
    from sweeps.run import sweep

    notes = sweep.notes(config, space)
    if dry_run:
        name = config.sweep.name or f"{config.space_name.replace('_', '-')}-XXXX"
        plan.show(plan.render(config, space, name, notes, num_samples=_NUM_SAMPLED))
        click.echo()  # the plan is there to read while trials are timed
        plan.show(plan.cost(config, space))
        click.echo("\nNothing was started: leave out --dry-run to launch.")
        return
    name = sweep.new_name(config)
    plan.show(plan.render(config, space, name, notes))
    click.echo()
    _conclude(sweep.launch(config, name, ["sweeps", *sys.argv[1:]]))


_SWEEP = click.argument("sweep_name", metavar="SWEEP")
_ROOT = click.option(
    "--root",
    default="runs",
    show_default=True,
    type=click.Path(path_type=Path),
    help="storage.root of the sweeps.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="For scripts.")


@main.command()
@_SWEEP
@_ROOT
def resume(sweep_name: str, root: Path) -> None:
    """Continue a sweep that was interrupted: what was running, then the rest of its trials."""
    from sweeps.run import sweep

    _conclude(sweep.resume(root, sweep_name))


@main.command()
@_SWEEP
@_ROOT
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
) -> None:
    r"""Let a sweep run more: a running one goes on, another is to be resumed.

    \b
        sweeps extend grow-prune-7f3a --trials +20
        sweeps extend grow-prune-7f3a --hours +2 --train-flops 1e14
    """
    from sweeps.cli import commands

    more = {"num_trials": trials, "hours": hours, "gpu_hours": gpu_hours, "train_flops": train_flops}
    click.echo(commands.extend(root, sweep_name, more))


@main.command()
@_SWEEP
@click.argument("values", nargs=-1, required=True, metavar="KEY=VALUE...")
@_ROOT
def enqueue(sweep_name: str, values: tuple[str, ...], root: Path) -> None:
    r"""Add a trial of yours to a sweep, to be run next.

    KEY=VALUE set searched keys; the sampler draws the others:

    \b
        sweeps enqueue grow-prune-7f3a pruning.k1=0.3 optimizer.lr=0.05
    """
    from sweeps.cli import commands

    click.echo(commands.enqueue(root, sweep_name, values))


@main.command()
@_SWEEP
@_ROOT
def stop(sweep_name: str, root: Path) -> None:
    r"""Stop a running sweep, wherever its driver runs, as Ctrl-C there would.

    Its running trials write a checkpoint; sweeps resume continues them:

    \b
        sweeps stop grow-prune-7f3a
    """
    from sweeps.cli import manage

    for line in manage.stop(root, sweep_name):
        click.echo(line)


@main.command()
@click.argument("identity", metavar="SWEEP[/NUMBER[/REPLICATE]]")
@_ROOT
@click.option("--follow", is_flag=True, help="Go on until the sweep, or the trial, ends.")
@click.option("--json", "as_json", is_flag=True, help="Events as they were written, one a line.")
def logs(identity: str, root: Path, follow: bool, as_json: bool) -> None:
    r"""What happened in a sweep, or in one of its trials.

    A trial tells of its starts, reports, edits, warnings and failures with their tracebacks; one with
    several seeds tells their means, and each of its replicates the rest:

    \b
        sweeps logs grow-prune-7f3a --follow
        sweeps logs grow-prune-7f3a/12
        sweeps logs seeds-02bc/12/0
    """
    from sweeps.cli import manage

    for line in manage.show_logs(root, identity, follow, as_json):
        click.echo(line)


@main.command()
@_SWEEP
@_ROOT
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-records", is_flag=True, help="Leave its records in MLflow.")
def rm(sweep_name: str, root: Path, yes: bool, keep_records: bool) -> None:
    r"""Remove a sweep for good: its study, its folder, its records.

    \b
        sweeps rm grow-prune-7f3a
        sweeps rm grow-prune-7f3a --yes --keep-records
    """
    from sweeps.cli import manage

    def confirm(what: str) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            raise ConfigError(f"Nobody can be asked here. To remove {what}: add --yes.")
        return click.confirm(f"Remove {what}?")

    for line in manage.remove(root, sweep_name, keep_records, confirm):
        click.echo(line)


@main.command()
@click.argument("sweep_names", nargs=-1, metavar="[SWEEP]...")
@_ROOT
@click.option(
    "--keep",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="Keep checkpoints of so many of the best trials.",
)
@click.option("--dry-run", is_flag=True, help="Only say how much would be freed.")
def gc(sweep_names: tuple[str, ...], root: Path, keep: int, dry_run: bool) -> None:
    r"""Free disk space: remove checkpoints of trials that ended, except for the best.

    Without SWEEP: of all sweeps. What runs or is to be continued keeps its checkpoints:

    \b
        sweeps gc --dry-run
        sweeps gc grow-prune-7f3a --keep 1
    """
    from sweeps.cli import manage

    for line in manage.collect(root, sweep_names, keep, dry_run):
        click.echo(line)


def _conclude(result: sweep.Result) -> None:
    from sweeps.cli import commands

    click.echo("\n".join(commands.closing(result)))
    codes = {"failed": FAILED, "interrupted": INTERRUPTED, "complete": 0}
    if code := codes[result.status]:
        raise click.exceptions.Exit(code)


@main.command("list")
@_ROOT
@_JSON
def list_(root: Path, as_json: bool) -> None:
    """All sweeps."""
    from sweeps.cli import commands

    click.echo(commands.list_sweeps(root, as_json))


@main.command()
@_SWEEP
@_ROOT
@_JSON
def show(sweep_name: str, root: Path, as_json: bool) -> None:
    """One sweep: every trial, best first."""
    from sweeps.cli import commands

    click.echo(commands.show(root, sweep_name, as_json))


@main.command()
@_SWEEP
@_ROOT
@_JSON
@_CONFIG_DIRS
@click.option("--save", metavar="NAME", help="Save as best/NAME.yaml in --config-dir, else in ./conf.")
@click.option("--trial", "number", type=int, help="Take this trial instead of the best.")
def best(
    sweep_name: str,
    root: Path,
    as_json: bool,
    config_dirs: tuple[Path, ...],
    save: str | None,
    number: int | None,
) -> None:
    """Export the best trial of a sweep as a file that runs again.

    Of several objectives the first, search.metric, decides; --trial takes another of the Pareto front.
    """
    from sweeps.cli import commands
    from sweeps.config.compose import user_folder

    click.echo(commands.export(root, sweep_name, number, save, user_folder(config_dirs), as_json))


@main.command()
@_OVERRIDES
@_CONFIG_DIRS
def train(overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> None:
    r"""Train one configuration here, without a sweep.

    OVERRIDES as in launch; best=NAME or best=PATH trains an exported trial and compares the result:

    \b
        sweeps train best=fashion-small
        sweeps train best=runs/grow-prune-7f3a/best.yaml training.num_epochs=30
    """
    from sweeps.cli import commands
    from sweeps.config.compose import load

    click.echo("\n".join(commands.train(load(overrides, config_dirs))))


@main.command()
@_OVERRIDES
@_CONFIG_DIRS
def preflight(overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> None:
    r"""Check that an untrained network carries a signal.

    OVERRIDES as in train. Scales are root mean squares of a layer's values before its nonlinearity, and of
    the gradient there beside the last layer's. Ends with 3 where training would be hopeless:

    \b
        sweeps preflight model=mlp model.widths=[32,32,32,32] model.init_gain=0.1
    """
    from sweeps.config.compose import load
    from sweeps.views import plan
    from sweeps.views import preflight as preflights

    found = preflights.check(load(overrides, config_dirs).trial)
    plan.show(preflights.render(found))
    if found.failures:
        raise click.exceptions.Exit(FAILED)


@main.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@_ROOT
@_JSON
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The figure (PNG) instead of ROOT/compare-A-B.png.",
)
def compare(a: str, b: str, root: Path, as_json: bool, output: Path | None) -> None:
    r"""Compare two sweeps, or two trials, at the same train FLOPs.

    A and B are both SWEEP, or both SWEEP/NUMBER. Trials with several seeds are compared seed by seed, also
    trials of a sweep that differ in their seed alone; SWEEP/NUMBER/REPLICATE is one seed of a trial:

    \b
        sweeps compare tpe-7f3a random-02bc
        sweeps compare grow-7f3a/3 grow-7f3a/11
    """
    from sweeps.cli import commands

    click.echo(commands.compare(root, a, b, output, as_json))


@main.command()
@_SWEEP
@_ROOT
@click.option("--port", default=5000, show_default=True, help="Of 127.0.0.1.")
def ui(sweep_name: str, root: Path, port: int) -> None:
    """Look at a sweep in MLflow, on this machine."""
    from sweeps.cli import commands

    commands.ui(root.absolute(), sweep_name, port)
