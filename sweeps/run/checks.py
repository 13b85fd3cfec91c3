"""What is checked of a sweep before anything of it is started; each error names a key and a fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from growcore import metrics
from growcore.config import TrialConfig, missing_data, suggest_name
from sweeps.config.errors import ConfigError
from sweeps.config.settings import Direction, SweepConfig
from sweeps.search import Goals, Key, SamplerSettings, limits
from sweeps.space.distributions import Choice, Fixed, Numeric
from sweeps.space.encoding import first
from sweeps.space.search_space import SearchSpace
from sweeps.stopping import exploitation

_EMBEDDED = ("digits", "synthetic")  # data sets that no disk can lack


def check_search(config: SweepConfig, space: SearchSpace) -> list[str]:
    """What people should know of the search before it starts.

    Raises:
        ConfigError: the sampler or the scheduler cannot search this space, or a trial to try first is not
            of it.
    """
    search = config.search
    exploitation.check(config, space)
    if config.sweep.replicates > 1 and any(d.key == "seed" for d in space.dimensions):
        raise ConfigError(
            f"sweep.replicates={config.sweep.replicates} gives each configuration its own seeds, but seed is "
            "searched. Take seed out of the space, or set sweep.replicates=1."
        )
    first(config, space)
    return limits(SamplerSettings.of(search), keys(space), Goals.of(search), config.sweep.num_trials)


def own_metrics(config: SweepConfig) -> dict[str, Any]:
    """What a user's metrics are, for the sweep's plan; ConfigError where a module of `imports` is wrong."""
    try:
        table = metrics.known(config.trial.imports)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return metrics.plain({key: one for key, one in table.items() if key not in metrics.METRICS})


def check_metrics(config: SweepConfig) -> list[str]:
    """What people should know of the metrics that a search asks for.

    Raises:
        ConfigError: no report holds one of them, or not every report.
    """
    search, imports = config.search, config.trial.imports
    objectives = {search.metric: search.direction, **search.further_objectives}
    asked = {"search.metric": [search.metric], "search.further_objectives": search.further_objectives}
    for key, names in {**asked, "search.constraints": search.constraints}.items():
        for name in names:
            try:
                metrics.check(name, imports, to_search=True)
                _check_part(name, config)
            except ValueError as error:
                raise ConfigError(f"{key}: {error}") from error
    notes = []
    for name, direction in objectives.items():
        metric = metrics.find(name, imports)
        if metric is not None and metric.better not in (None, direction):
            which = "larger" if metric.better is Direction.maximize else "smaller"
            notes.append(f"the search will {direction} {name}, of which {which} values are better")
    return notes


def _check_part(name: str, config: SweepConfig) -> None:
    """Refuse a class or a layer that trials do not have, where it is the same in all of them."""
    searched = {key.partition(".")[0] for key in config.space}
    pattern = next((one for one in metrics.METRICS if metrics.is_one_of(name, one)), name)
    if "<" not in pattern or searched & {"data", "model"}:
        return
    from growcore import data
    from growcore.networks import models

    images = data.load(config.trial.data, "cpu", config.trial.imports)
    if "<class>" in pattern:
        known = [word.replace("/", "-") for word in images.class_names]
    else:
        model = models.build(config.trial, images.image_shape, images.num_classes)
        known = list(models.sparse_layers(model) if "density" in pattern else models.widths(model))
    part = name.removeprefix(pattern.partition("<")[0])
    if part not in known:
        raise ValueError(f"No report holds a metric {name!r}. {suggest_name(part, known)}")


def keys(space: SearchSpace) -> list[Key]:
    """What a sampler must know of each searched key."""
    conditions = {row.key: row.condition for row in space.describe()}
    return [
        Key(
            d.key,
            is_conditional=bool(conditions[d.key]),
            is_choice=isinstance(d.distribution, Choice),
            is_finite=isinstance(d.distribution, Choice) or _is_finite(d.distribution),
        )
        for d in space.dimensions
        if not isinstance(d.distribution, Fixed) and not conditions[d.key].startswith("never")
    ]


def _is_finite(numeric: Numeric) -> bool:
    return not numeric.references and (numeric.is_integer or numeric.step is not None)


def check_budget(config: SweepConfig) -> None:
    """Raise ConfigError where a budget can never be spent."""
    if config.sweep.max_gpu_hours is not None and not config.cluster.gpus_per_trial:
        raise ConfigError(
            f"sweep.max_gpu_hours={config.sweep.max_gpu_hours:g} is never spent with "
            "cluster.gpus_per_trial=0. Give trials GPUs: cluster.gpus_per_trial=1, or limit the sweep by "
            "its wall time: sweep.max_hours=8."
        )


def check_data(config: TrialConfig) -> None:
    """Raise ConfigError where the base configuration's data set is missing, before anything is started."""
    if config.data.name in _EMBEDDED:
        return
    if problem := missing_data(config.data):
        raise ConfigError(problem)  # said without importing torch
    from growcore import data

    try:
        data.load(config.data, "cpu", config.imports)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error


def exists(folder: Path) -> str:
    """What is said where a sweep of this name is there already."""
    return (
        f"sweep.name={folder.name}: {folder} exists already. Continue that sweep with "
        f"`sweeps resume {folder.name}`, or choose another name: sweep.name=NAME."
    )
