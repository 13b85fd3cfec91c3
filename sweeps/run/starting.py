"""What a search starts from: its goals, trials to try first, earlier sweeps, trials given while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.config.compose import read_best, read_value
from sweeps.config.schema import ConfigError
from sweeps.config.settings import TRIAL_GROUPS, SearchConfig, SweepConfig, get_key
from sweeps.search import Constraint, Goals, Key, SamplerSettings, Study, TrialRow, TrialState, limits
from sweeps.space.distributions import Choice, Fixed, Numeric
from sweeps.space.search_space import Dimension, SearchSpace
from sweeps.stopping import exploitation

Params = dict[str, Any]  # what a sampler sees: name -> value


def settings(search: SearchConfig) -> SamplerSettings:
    """What chooses the next trial."""
    return SamplerSettings(name=search.sampler, seed=search.seed, options=search.options)


def goals(search: SearchConfig) -> Goals:
    """Objectives and constraints; ConfigError where a constraint cannot be read."""
    further = {key: direction.value for key, direction in search.further_objectives.items()}
    return Goals(
        objectives={search.metric: search.direction.value, **further},
        constraints=tuple(Constraint.read(key, text) for key, text in search.constraints.items()),
    )


def check(config: SweepConfig, space: SearchSpace) -> list[str]:
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
    return limits(settings(search), keys(space), goals(search), config.sweep.num_trials)


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


# Trials given by hand


def first(config: SweepConfig, space: SearchSpace) -> list[Params]:
    """The sampler's parameters of `search.first`.

    Raises:
        ConfigError: a key is not searched, or a value lies outside the space.
    """
    found = []
    for trial in config.search.first:
        try:
            found.append(_first(trial, config, space))
        except ConfigError as error:
            raise ConfigError(f"search.first, {trial}: {error}") from error
    return found


def _first(trial: Any, config: SweepConfig, space: SearchSpace) -> Params:
    if isinstance(trial, dict):
        return given(space, trial)
    best = read_best(trial.removeprefix("best/"), [Path(folder) for folder in config.config_dirs])
    return of_trial(space, best.trial, {})


def typed(space: SearchSpace, words: Sequence[str]) -> Params:
    """The sampler's parameters of `KEY=VALUE` words; see `given`."""
    if bad := [word for word in words if "=" not in word]:
        raise ConfigError(f"Cannot read '{bad[0]}': write KEY=VALUE, as in optimizer.lr=0.1.")
    return given(space, {word.partition("=")[0]: read_value(word) for word in words})


def given(space: SearchSpace, values: Mapping[str, Any]) -> Params:
    """The sampler's parameters of some keys; the others are for the sampler to draw.

    Raises:
        ConfigError: a key is not searched or its value lies outside, or what its bounds and conditions
            refer to is neither given nor the same in every trial.
    """
    known = [d.key for d in space.dimensions]
    for key in values:
        if key not in known:
            raise ConfigError(f"{key} is not searched here. Searched: {', '.join(known)}.")
    params: Params = {}
    drawn: set[str] = set()  # keys that are not known before the sampler draws

    def take(dimension: Dimension, lookup: Any) -> Any:
        distribution = dimension.distribution
        if isinstance(distribution, Fixed):
            return distribution.value
        if dimension.key not in values:
            drawn.add(dimension.key)
            return _any(dimension, lookup)
        if open_ := [name for name in distribution.references if name in drawn]:
            raise ConfigError(
                f"{dimension.key} is searched as {distribution}, so its place there is not known without "
                f"{open_[0]}. Give {open_[0]} as well."
            )
        params[distribution.name] = distribution.encode(values[dimension.key], lookup)
        return values[dimension.key]

    active, _ = space.walk(take, settled=lambda name: name not in drawn)
    for key in values:
        if key not in active:
            raise ConfigError(
                f"{key} has no effect in this trial: {space.condition(key)} does not hold, or is not known "
                "without the keys it names. Give those as well, or leave it out."
            )
    return params


def _any(dimension: Dimension, lookup: Any) -> Any:
    """Some value the key may have, to go on with."""
    if isinstance(dimension.distribution, Choice):
        return dimension.distribution.values[0]
    assert isinstance(dimension.distribution, Numeric)
    return dimension.distribution.bounds(lookup)[0]


def of_trial(space: SearchSpace, trial: Mapping[str, Any], options: Mapping[str, str]) -> Params:
    """The sampler's parameters of a whole trial.

    Args:
        space: to be searched.
        trial: as `TrialConfig.to_dict`.
        options: group -> option of the trial, where it is known; else an option of the same method or name.

    Raises:
        ConfigError: a value lies outside the space.
    """

    def take(dimension: Dimension, lookup: Any) -> Any:
        if isinstance(dimension.distribution, Fixed):
            return dimension.distribution.value
        if dimension.is_group:
            return options.get(dimension.key) or space.option_like(dimension.key, trial[dimension.key])
        return get_key(trial, dimension.key)

    return space.encode(space.walk(take)[0])


# Earlier sweeps


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An earlier sweep."""

    name: str
    config: SweepConfig
    rows: Sequence[TrialRow]


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What of an earlier sweep a sampler is told."""

    trials: list[tuple[Params, TrialRow]]
    note: str  # what was kept and what was not, for people


def known(space: SearchSpace, aims: Goals, source: Source) -> Known:
    """The complete trials of an earlier sweep that lie in this space.

    A key that only one of the two sweeps searches has one value in the other; trials whose values lie in
    this space are kept, and keys that are set otherwise here are named.

    Raises:
        ConfigError: the sweeps do not train on the same data, or none of its trials is of use.
    """
    trials: list[tuple[Params, TrialRow]] = []
    reasons: list[str] = []
    differ: set[str] = set()
    for row in (row for row in source.rows if row.state is TrialState.complete):
        options = {g: str(row.params.get(g, source.config.choices.get(g))) for g in TRIAL_GROUPS}
        try:
            params = of_trial(space, row.config, options)
            here = space.apply(space.decode(params)).to_dict()
        except ConfigError as error:
            reasons.append(str(error))
            continue
        if why := aims.missing(row.outcome.metrics):
            reasons.append(why)
            continue
        differ |= _different(row.config, here)
        trials.append((params, row))
    _check_source(source, trials, reasons, differ)
    left_out = f"; {len(reasons)} left out: {reasons[0]}" if reasons else ""
    otherwise = f"; not the same here: {', '.join(sorted(differ))}" if differ else ""
    num = f"{len(trials)} trial{'s' if len(trials) > 1 else ''}"
    note = f"from {source.name}: the sampler knows {num}{left_out}{otherwise}"
    return Known(trials=trials, note=note)


def _check_source(source: Source, trials: Sequence[Any], reasons: Sequence[str], differ: set[str]) -> None:
    where = f"search.warm_start: {source.name}"
    if not trials:
        why = reasons[0] if reasons else "none of its trials is complete."
        raise ConfigError(f"{where} has no trial that this search can use: {why}")
    if data := sorted(key for key in differ if key.startswith("data.")):
        raise ConfigError(
            f"{where} trained on other data ({', '.join(data)} differ), so its values cannot be compared. "
            "Leave it out, or choose the same data."
        )


def _different(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Dotted keys whose values differ, beyond rounding."""
    found: set[str] = set()
    for key in [*there, *(k for k in here if k not in there)]:
        a, b = there.get(key), here.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= _different(a, b, f"{prefix}{key}.")
        elif isinstance(a, float) and isinstance(b, float):
            found |= {prefix + key} if abs(a - b) > 1e-9 * max(abs(a), abs(b)) else set()
        elif a != b:
            found.add(prefix + key)
    return found


def prepare(study: Study, config: SweepConfig, space: SearchSpace, sources: Sequence[Source]) -> list[str]:
    """Put into a new study what its search starts from, once; returns what people should know of it."""
    if study.is_prepared:
        return []
    notes = []
    for source in sources:
        found = known(space, study.goals, source)
        for params, row in found.trials:
            study.add_earlier(f"{source.name}/{row.number}", space, params, row)
        notes.append(found.note)
    for params in first(config, space):
        study.enqueue(params)
    study.prepared()
    return notes
