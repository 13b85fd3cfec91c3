"""What is checked of a sweep before anything of it is started; each error names a key and a fix."""

from __future__ import annotations

from pathlib import Path

from growcore.config import TrialConfig, missing_data
from sweeps.config.errors import ConfigError
from sweeps.config.settings import SweepConfig
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
