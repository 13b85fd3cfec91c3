"""What a sweep would do, for people to read before it starts: a table on a terminal, plain text on a pipe."""

from __future__ import annotations

import os
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeps.config import TRIAL_GROUPS, ClusterConfig, SchedulerConfig, SchedulerName, SweepConfig
from sweeps.space import SearchSpace, quote

_PIPE_WIDTH = 140  # columns where there is no terminal to ask


def render(config: SweepConfig, space: SearchSpace, name: str, num_samples: int = 0) -> RenderableType:
    """The whole plan.

    Args:
        config: the sweep.
        space: its checked space.
        name: of the sweep, or what stands for a name not drawn yet.
        num_samples: random trials of the space shown below it.
    """
    parts: list[RenderableType] = [
        _section("sweep", _sweep(config, name)),
        "",
        _section("every trial", _trial(config, space)),
        "",
        _space(config, space),
    ]
    if num_samples:
        parts += ["", _samples(space, num_samples)]
    return Group(*parts)


def show(renderable: RenderableType) -> None:
    """Print to stdout, without the blanks that fill a table's lines on a pipe."""
    made = Console(markup=False, highlight=False)  # brackets are printed as they are
    if not made.is_terminal:
        made.width = _PIPE_WIDTH
    with made.capture() as captured:
        made.print(renderable)
    made.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _section(title: str, rows: Iterable[tuple[str, str]]) -> RenderableType:
    return Group(Text(title, style="bold"), _table(rows))


def _table(rows: Iterable[Iterable[str]], *headers: str) -> Table:
    table = Table(
        *headers,
        box=None,
        pad_edge=False,
        show_header=bool(headers),
        header_style="bold",
        padding=(0, 2, 0, 0),
    )
    for first, *others in rows:
        table.add_row(Text(f"  {first}"), *map(Text, others))
    return table


def _sweep(config: SweepConfig, name: str) -> Iterable[tuple[str, str]]:
    search, tracking, root = config.search, config.tracking, config.storage.root
    num = config.sweep.num_trials
    yield "name", name
    yield "trials", f"{num} trial{'s' if num > 1 else ''} of {config.trial.training.num_epochs} epochs"
    yield "search", f"{search.sampler} (seed {search.seed}) to {search.direction} {search.metric}"
    yield "stopping", _stopping(config.scheduler)
    yield "resources", _resources(config.cluster)
    yield (
        "records",
        f"MLflow {tracking.uri or f'sqlite:///{root}/mlflow.db'}, experiment {tracking.experiment}",
    )
    yield "kept in", f"{root}/{name}, study in {root}/optuna.db"


def _stopping(scheduler: SchedulerConfig) -> str:
    if scheduler.name is SchedulerName.none:
        return "none: every trial runs to its end"
    return (
        f"{scheduler.name} by {scheduler.fidelity}: from {scheduler.grace:.0%} of a trial on, "
        f"the best 1 in {scheduler.reduction_factor} go on"
    )


def _resources(cluster: ClusterConfig) -> str:
    each = f"{cluster.cpus_per_trial:g} CPU" + (
        f" and {cluster.gpus_per_trial:g} GPU" if cluster.gpus_per_trial else ""
    )
    most = "as many as fit" if cluster.num_concurrent is None else f"at most {cluster.num_concurrent}"
    where = f"Ray at {cluster.address}"
    if cluster.address is None:
        where = f"a Ray of its own on this machine ({len(os.sched_getaffinity(0))} CPU cores)"
    return f"{each} a trial, {most} at a time, on {where}"


def _trial(config: SweepConfig, space: SearchSpace) -> Iterable[tuple[str, str]]:
    searched = {dimension.key for dimension in space.dimensions}
    for group in TRIAL_GROUPS:
        values = config.trial.to_dict()[group]
        words = [f"{key}={quote(value)}" for key, value in values.items() if f"{group}.{key}" not in searched]
        yield group, "searched, see below" if group in searched else " ".join(words)
    if "seed" not in searched:
        yield "seed", str(config.trial.seed)
    if "preflight" not in searched:
        yield "preflight", config.trial.preflight
    if config.trial.imports:
        yield "imports", " ".join(config.trial.imports)


def _space(config: SweepConfig, space: SearchSpace) -> Table:
    rows = ((row.key, row.distribution, row.condition) for row in space.describe())
    return _table(rows, f"space {config.space_name}", "distribution", "only where")


def _samples(space: SearchSpace, num: int) -> RenderableType:
    trials = enumerate(space.sample(num))
    return _section("sampled trials", ((str(n), " ".join(space.overrides(values))) for n, values in trials))
