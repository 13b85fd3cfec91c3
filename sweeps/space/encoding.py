"""Trials given by hand or taken from elsewhere, as the parameters a sampler sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from growcore.config import elements
from sweeps.config.compose import read_best, read_value
from sweeps.config.errors import ConfigError
from sweeps.config.quoting import quote
from sweeps.config.settings import SweepConfig, get_key, is_element
from sweeps.space.dimensions import Dimension
from sweeps.space.distributions import Choice, Fixed, Numeric
from sweeps.space.search_space import SearchSpace

Params = dict[str, Any]  # what a sampler sees: name -> value


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

    A whole list stands for all its elements, where those are searched.

    Raises:
        ConfigError: a key is not searched or its value lies outside, or what its bounds and conditions
            refer to is neither given nor the same in every trial.
    """
    known = [d.key for d in space.dimensions]
    lists = {key: value for key, value in values.items() if key not in known}
    values = _by_elements(known, values)
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

    active, trial = space.walk(take, settled=lambda name: name not in drawn)
    for key in values:
        if key not in active:
            raise ConfigError(
                f"{key} has no effect in this trial: {space.condition(key)} does not hold, or is not known "
                "without the keys it names. Give those as well, or leave it out."
            )
    _check_lists(lists, trial)
    return params


def _by_elements(known: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with a whole list, whose elements are searched, as those elements."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        own = [name for name in known if is_element(name) and elements.list_of(name) == key]
        if key in known or not own or not isinstance(value, list):
            found[key] = value
        else:
            found |= {
                name: entry for name, entry in zip(_names(key, value), value, strict=True) if name in own
            }
    return found


def _names(key: str, value: Sequence[Any]) -> list[str]:
    return [f"{key}.{index}" for index in range(len(value))]


def _check_lists(values: Mapping[str, Any], trial: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, list) and get_key(trial, key) != value:
            raise ConfigError(
                f"{key}={quote(value)} lies outside the space, which gives {quote(get_key(trial, key))}: a "
                f"whole list must have its length, and what is not searched of it."
            )


def _check_length(space: SearchSpace, key: str, trial: Mapping[str, Any], lookup: Any) -> None:
    """Of a trial from elsewhere a list of another length has no place here."""
    held, num = get_key(trial, key), space.length(key, lookup)
    if not isinstance(held, list) or len(held) != num:
        raise ConfigError(f"{key}={quote(held)} lies outside its space: here it is a list of {num}.")


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
        if is_element(dimension.key):
            _check_length(space, elements.list_of(dimension.key), trial, lookup)
        return get_key(trial, dimension.key)

    return space.encode(space.walk(take)[0])
