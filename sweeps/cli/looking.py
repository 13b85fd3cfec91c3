"""Commands that show sweeps and trials, and change nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeps.cli.command import Command
from sweeps.cli.options import JSON, ROOT, SWEEP, identity
from sweeps.config.errors import ConfigError

if TYPE_CHECKING:
    from sweeps.cli.command import Lines


def as_text(values: Any) -> str:
    """JSON for scripts."""
    return json.dumps(values, indent=2, default=str)


@click.command("list", cls=Command)
@ROOT
@JSON
def list_(root: Path, as_json: bool) -> Lines:
    """All sweeps."""
    from sweeps.run import manage
    from sweeps.views import listing

    sweeps = manage.every_sweep(root)
    if as_json:
        yield as_text([{**asdict(row), "num_trials": dict(row.num_trials), "status": s} for row, s in sweeps])
    elif sweeps:
        yield from listing.table(sweeps)
    else:
        yield f"No sweeps under {root}. Start one with `sweeps launch`."


@click.command(cls=Command)
@SWEEP
@ROOT
@JSON
def show(sweep_name: str, root: Path, as_json: bool) -> Lines:
    """One sweep: every trial, best first."""
    from sweeps.views import overview, tables

    if as_json:
        yield as_text(overview.values(root, sweep_name))
    else:
        yield from overview.lines(root, sweep_name, tables.terminal_width())


@click.command(cls=Command)
@identity("trial", "SWEEP[/NUMBER[/REPLICATE]]")
@ROOT
@click.option("--follow", is_flag=True, help="Go on until the sweep, or the trial, ends.")
@click.option("--json", "as_json", is_flag=True, help="Events as they were written, one a line.")
def logs(trial: str, root: Path, follow: bool, as_json: bool) -> Lines:
    r"""What happened in a sweep, or in one of its trials.

    A trial tells of its starts, reports, edits, warnings and failures with their tracebacks; one with
    several seeds tells their means, and each of its replicates the rest:

    \b
        sweeps logs grow-prune-7f3a --follow
        sweeps logs grow-prune-7f3a/12
        sweeps logs seeds-02bc/12/0
    """
    from sweeps.run import manage
    from sweeps.views import logs as told

    log = told.Log.of(root, trial)
    if follow:
        yield from told.follow(
            lambda: log.lines(as_json),
            lambda: log.has_ended or manage.live_driver(root, log.sweep) is None,
        )
    else:
        yield from log.lines(as_json)


@click.command(cls=Command)
@identity("a", "A")
@identity("b", "B")
@ROOT
@JSON
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The figure (PNG) instead of ROOT/compare-A-B.png.",
)
def compare(a: str, b: str, root: Path, as_json: bool, output: Path | None) -> Lines:
    r"""Compare two sweeps, or two trials, at the same train FLOPs.

    A and B are both SWEEP, or both SWEEP/NUMBER. Trials with several seeds are compared seed by seed, also
    trials of a sweep that differ in their seed alone; SWEEP/NUMBER/REPLICATE is one seed of a trial:

    \b
        sweeps compare tpe-7f3a random-02bc
        sweeps compare grow-7f3a/3 grow-7f3a/11
    """
    from sweeps.views import compare as comparing

    first, second = comparing.read(root, a, b)
    found = comparing.compare(first, second)
    path = output or root / f"compare-{a}-{b}.png".replace("/", "-")
    comparing.figure(first, second, found, path)
    if as_json:
        yield as_text({**asdict(found), "ahead": found.ahead, "figure": str(path)})
    else:
        yield from comparing.table(found)
        yield f"figure: {path}"


@click.command(cls=Command)
@SWEEP
@ROOT
@click.option("--port", default=5000, show_default=True, help="Of 127.0.0.1.")
def ui(sweep_name: str, root: Path, port: int) -> Lines:
    """Look at a sweep in MLflow, on this machine."""
    from sweeps.records import disk, server, tracking_store

    root = root.absolute()
    config = disk.read_config(root, sweep_name)
    uri = config.tracking.uri or tracking_store.default_uri(root)
    tracking = tracking_store.open_tracking(uri, config.tracking.experiment, root)
    if uri.startswith("http"):
        yield tracking_store.experiment_url(uri.rstrip("/"), tracking, sweep_name)
        return
    if not server.is_free(port):
        raise ConfigError(f"--port {port} is taken on this machine. Choose another: --port {port + 1}.")
    try:
        with server.serving(uri, port) as served:
            yield f"{tracking_store.experiment_url(served.address, tracking, sweep_name)}\nCtrl-C ends it."
            served.wait()
    except KeyboardInterrupt:
        return


@click.command(cls=Command)
@click.argument("parts", nargs=-1, metavar="[PART]...")
@click.option("--import", "imports", multiple=True, metavar="MODULE", help="Also what a module of yours has.")
def keys(parts: tuple[str, ...], imports: tuple[str, ...]) -> Lines:
    r"""Every key of a configuration: its default, its meaning, where it has an effect.

    PART is one of data, model, growth, pruning, optimizer, training, trial, sweep, search, scheduler,
    cluster, tracking, storage, notify; without it all are shown:

    \b
        sweeps keys growth pruning
        sweeps keys growth --import mine
    """
    from sweeps.views import keys as view

    yield view.render(parts, imports)
