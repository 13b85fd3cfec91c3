"""What a sweep would do, for people to read before it starts: a table on a terminal, plain text on a pipe."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeps.config.quoting import quote
from sweeps.config.settings import (
    TRIAL_GROUPS,
    WEBHOOK,
    ClusterConfig,
    NotifyConfig,
    SchedulerConfig,
    SchedulerName,
    SearchConfig,
    SweepConfig,
    SweepSettings,
)
from sweeps.space.search_space import SearchSpace
from sweeps.views.tables import section, table
from sweeps.views.words import duration

if TYPE_CHECKING:
    from sweeps.views.estimate import Estimate, TrialEstimate


def render(
    config: SweepConfig, space: SearchSpace, name: str, notes: Sequence[str] = (), num_samples: int = 0
) -> RenderableType:
    """The whole plan.

    Args:
        config: the sweep.
        space: its checked space.
        name: of the sweep, or what stands for a name not drawn yet.
        notes: what people should know of the search, see `sweeps.run.sweep.notes`.
        num_samples: random trials of the space shown below it.
    """
    parts: list[RenderableType] = [
        section("sweep", _sweep(config, space, name, notes)),
        "",
        section("every trial", _trial(config, space)),
        "",
        _space(config, space),
    ]
    if num_samples:
        parts += ["", _samples(space, num_samples)]
    return Group(*parts)


def cost(config: SweepConfig, space: SearchSpace) -> RenderableType:
    """What the sweep will cost, by planning sampled trials and timing three of them; imports torch."""
    from sweeps.views import estimate

    try:
        found = estimate.estimate(config, space)
    except (ValueError, OSError, RuntimeError) as error:  # no data, no room: the plan stands without it
        return Text(f"cost: not estimated, as a sampled trial cannot be built here: {error}")
    kinds = (found.smallest, found.median, found.largest)
    num = config.sweep.replicates
    title = "cost of a whole trial" if num == 1 else f"cost of a configuration, all {num} seeds"
    whole = table(_cost_rows(kinds), title, "smallest", "median", "largest")
    largest = " ".join(space.overrides(found.largest.values))
    notes = (
        f"  of {found.num_samples} sampled trials, each planned growth taken as full; memory without torch "
        f"itself; time on this machine, as busy as it is now",
        f"  the largest: {largest}",
    )
    return Group(whole, *map(Text, notes), "", section("cost of the sweep", _sweep_cost(config, found)))


def _cost_rows(kinds: tuple[TrialEstimate, ...]) -> Iterable[tuple[str, ...]]:
    yield "parameters at the end", *(f"{each.parameters:,}" for each in kinds)
    yield "train GFLOP", *(f"{each.train_flops / 1e9:.3g}" for each in kinds)
    yield "memory", *(f"{each.memory_bytes / 1e6:,.1f} MB" for each in kinds)
    yield "time", *(_time(each.seconds) for each in kinds)


def _sweep_cost(config: SweepConfig, found: Estimate) -> Iterable[tuple[str, str]]:
    num = config.sweep.num_trials
    if num is None:
        yield (
            "train GFLOP",
            f"{found.mean_train_flops / 1e9:.3g} a {_what(config)}; {_ends(config.sweep)} ends the sweep",
        )
        return
    less = (
        ""
        if config.scheduler.name is SchedulerName.none
        else f"; less where {config.scheduler.name} stops early"
    )
    yield "train GFLOP", f"{num * found.mean_train_flops / 1e9:.3g} if every trial runs to its end{less}"
    yield "time", _sweep_time(num, _what(config), found) + ("" if found.mean_seconds is None else less)


def _what(config: SweepConfig) -> str:
    """What the search chooses and a number of trials counts."""
    return "trial" if config.sweep.replicates == 1 else "configuration"


def _sweep_time(num: int, what: str, found: Estimate) -> str:
    slots = found.num_slots
    if found.mean_seconds is None:
        return f"unknown: this machine has no {found.device} device to time a trial on"
    if found.sweep_seconds is None:
        every = _time(num * found.mean_seconds)
        return f"{every} of slots: how many slots there are, only the cluster knows"
    each = f"{num} {what}s of {_time(found.mean_seconds)} on {slots} slot{'s' if slots != 1 else ''}"
    return f"about {_time(found.sweep_seconds)}: {each}"


def _ends(settings: SweepSettings) -> str:
    """What ends a sweep, apart from its number of trials: `2 h or 1e+14 train FLOPs`."""
    found = {
        "h": settings.max_hours,
        "GPU h": settings.max_gpu_hours,
        "train FLOPs": settings.max_train_flops,
    }
    return " or ".join(f"{value:.3g} {unit}" for unit, value in found.items() if value is not None)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _failures(config: SweepConfig) -> str:
    cluster = config.cluster
    hang = f" or reports nothing for {_time(cluster.hang_seconds)}" if cluster.hang_seconds else ""
    times = {0: "not tried again", 1: "tried again once"}
    again = times.get(cluster.max_retries, f"tried again {cluster.max_retries} times")
    return (
        f"a trial that crashes{hang} is {again}; more than {config.sweep.max_failed:.0%} of 8 or more ended "
        f"trials failing stops the sweep"
    )


def _sweep(
    config: SweepConfig, space: SearchSpace, name: str, notes: Sequence[str]
) -> Iterable[tuple[str, str]]:
    search, tracking, root = config.search, config.tracking, config.storage.root
    yield "name", name
    yield "trials", _trials(config, space)
    yield from _search(search)
    for note in notes:
        yield "", note
    yield "stopping", _stopping(config.scheduler)
    shortest, longest = map(int, space.range("training.num_epochs"))
    if shortest < longest and config.scheduler.name is not SchedulerName.none:
        yield "", f"of a trial of {longest} epochs: those of fewer are compared up to their own end"
    yield "failures", _failures(config)
    yield "resources", _resources(config.cluster)
    yield (
        "records",
        f"MLflow {tracking.uri or f'sqlite:///{root}/mlflow.db'}, experiment {tracking.experiment}",
    )
    keep = config.storage.keep_checkpoints
    checkpoints = "" if keep is None else f"; checkpoints of the best {keep} when it ends"
    yield "kept in", f"{root}/{name}, study in {root}/optuna.db{checkpoints}"
    if told := _told(config.notify):
        yield "told", told


def _trials(config: SweepConfig, space: SearchSpace) -> str:
    num, ends, what = config.sweep.num_trials, _ends(config.sweep), _what(config)
    shortest, longest = map(int, space.range("training.num_epochs"))
    of = f"of {longest if shortest == longest else f'{shortest} to {longest}'} epochs"
    if config.sweep.replicates > 1:
        of += f", each trained with {_seeds(config)}, ranked by their mean"
    if config.cluster.trial_seconds is not None:
        of += f", at most {_time(config.cluster.trial_seconds)} of training"
    if num is None:
        return f"as many {'' if what == 'trial' else f'{what}s '}as start within {ends}, {of}"
    return f"{num} {what}{'s' if num > 1 else ''} {of}" + (f", or {ends}" if ends else "")


def _seeds(config: SweepConfig) -> str:
    first = config.trial.seed
    return f"seeds {first} to {first + config.sweep.replicates - 1}"


def _told(notify: NotifyConfig) -> str:
    whom = [
        *([notify.command] if notify.command else []),
        *(["the webhook"] if WEBHOOK in os.environ else []),
    ]
    return f"{', '.join(notify.events)} to {' and '.join(whom)}" if whom and notify.events else ""


def _search(search: SearchConfig) -> Iterable[tuple[str, str]]:
    options = "".join(f", {key} {quote(value)}" for key, value in search.options.items())
    objectives = {search.metric: search.direction, **search.further_objectives}
    aims = " and ".join(f"{direction} {key}" for key, direction in objectives.items())
    yield "search", f"{search.sampler} (seed {search.seed}{options}) to {aims}"
    if search.constraints:
        yield "subject to", ", ".join(f"{key} {limit}" for key, limit in search.constraints.items())
    for trial in search.first:
        yield "tried first", trial if isinstance(trial, str) else " ".join(_words(trial))


def _words(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={quote(value)}" for key, value in values.items()]


def _stopping(scheduler: SchedulerConfig) -> str:
    s = scheduler
    if s.name is SchedulerName.none:
        return "none: every trial runs to its end"
    by = f"{s.name} by {s.fidelity}"
    after = f"; not in the {s.edit_grace:.0%} after an edit" if s.edit_grace else ""
    if s.name is SchedulerName.median:
        return f"{by}: from {s.grace:.0%} of a trial on, the better half goes on{after}"
    if s.name is SchedulerName.pbt:
        return (
            f"{by}: every {s.interval:.0%} of a trial the worst {s.quantile:.0%} go on from the best, "
            f"with values times or divided by {s.perturbation:g}{after}"
        )
    brackets = f" in {s.num_brackets} brackets" if s.name is SchedulerName.hyperband else ""
    return (
        f"{by}{brackets}: from {s.grace:.0%} of a trial on, the best 1 in {s.reduction_factor} go on{after}"
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
        keys = {f"{group}.{key}": value for key, value in config.trial.to_dict()[group].items()}
        # What does nothing in any trial says nothing of them.
        shown = {
            key: value
            for key, value in keys.items()
            if key not in searched and not space.effects.is_idle(key)
        }
        words = [
            f"{key.partition('.')[2]}={_shared(key, value, searched)}"
            for key, value in shown.items()
            if value != {} and not _is_searched_by_entries(key, value, searched)
        ]
        yield group, "searched, see below" if group in searched else " ".join(words)
    if "seed" not in searched:
        several = config.sweep.replicates > 1
        yield "seed", _seeds(config).removeprefix("seeds ") if several else str(config.trial.seed)
    if "preflight" not in searched:
        yield "preflight", config.trial.preflight
    if config.trial.imports:
        yield "imports", " ".join(config.trial.imports)


def _is_searched_by_entries(key: str, value: Any, searched: Collection[str]) -> bool:
    """Whether no entry of what trials share is left in any of them."""
    num = len(value) if isinstance(value, list) else 1
    return all(f"{key}.{index}" in searched for index in range(num))


def _shared(key: str, value: Any, searched: Collection[str]) -> str:
    """A value that trials share; of a list the searched entries are left open."""
    if not isinstance(value, list):
        return quote(value)
    entries = ("?" if f"{key}.{i}" in searched else quote(entry) for i, entry in enumerate(value))
    return f"[{','.join(entries)}]"


def _space(config: SweepConfig, space: SearchSpace) -> Table:
    rows = ((row.key, row.distribution, row.condition) for row in space.describe())
    return table(rows, f"space {config.space_name}", "distribution", "only where")


def _samples(space: SearchSpace, num: int) -> RenderableType:
    trials = enumerate(space.sample(num))
    return section("sampled trials", ((str(n), " ".join(space.overrides(values))) for n, values in trials))
