"""From what is written of a space to its dimensions: each key known, each in the trials that have it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from growcore.config import elements
from sweeps.config.errors import ConfigError, suggest_key
from sweeps.config.settings import TRIAL_GROUPS, is_element
from sweeps.space import entries
from sweeps.space.dimensions import Dimension, in_order
from sweeps.space.distributions import Fixed, Numeric, parse
from sweeps.space.effects import SpaceEffects
from sweeps.space.possible import PossibleValues
from sweeps.space.references import HasEffect, HasElement


def lengths(raw: Mapping[str, Any]) -> dict[str, int]:
    """How long lists are that are searched by entries in a length of their own.

    Raises:
        ConfigError: a length is no positive whole number.
    """
    found = {
        key: entries.length(key, value) for key, value in raw.items() if entries.are_searched(key, value)
    }
    return {key: num for key, num in found.items() if num is not None}


def read(
    raw: Mapping[str, Any], known: Collection[str], possible: PossibleValues, effects: SpaceEffects
) -> None:
    """Give `possible` the dimensions of a space, in the order in which they are drawn.

    Raises:
        ConfigError: an unknown key, option or distribution, or references in a circle.
    """
    lists = {key for key, value in raw.items() if entries.are_searched(key, value)}
    # Which values the other keys may have, and how long lists are, is known when all are read.
    possible.dimensions = {k: _dimension(k, v, known, possible) for k, v in raw.items() if k not in lists}
    found = [_entries(k, raw[k], known, possible) if k in lists else [possible.dimensions[k]] for k in raw]
    possible.dimensions = {dimension.key: dimension for each in found for dimension in each}
    acting = {
        key: _in_its_list(_with_effect(dimension, effects), possible, effects)
        for key, dimension in possible.dimensions.items()
    }
    possible.dimensions = {key: acting[key] for key in in_order(acting)}


def _dimension(key: str, raw: Any, known: Collection[str], possible: PossibleValues) -> Dimension:
    def is_known(name: str) -> bool:
        return name in known or is_element(name)

    entries.check_whole(key, raw)
    if not is_known(key):
        hint = suggest_key(key, list(known))
        raise ConfigError(f"The space searches '{key}', which is no trial key. {hint}")
    distribution, conditions = parse(key, raw)
    if key in TRIAL_GROUPS:
        if isinstance(distribution, Numeric):
            raise ConfigError(f"The group {key} is chosen whole: write {{choice: [OPTION, OPTION]}}.")
        for option in distribution.values:
            possible.option(key, option)
    for name, role in [(c.key, "condition") for c in conditions] + [
        (name, "bound") for name in distribution.references
    ]:
        if not is_known(name) or (role == "bound" and name in TRIAL_GROUPS):
            raise ConfigError(
                f"The {role} of {key} refers to unknown key '{name}'. {suggest_key(name, list(known))}"
            )
    return Dimension(key, distribution, tuple(conditions))


def _entries(
    key: str, raw: Mapping[str, Any], known: Collection[str], possible: PossibleValues
) -> list[Dimension]:
    """A dimension for each entry of a list; some may have one of their own."""
    num = max(map(len, possible.lists(key)))
    if num == 0:
        raise ConfigError(
            f"The space searches the entries of {key}, which has none. Say how many: "
            f"{{int: [LOW, HIGH], length: 3}}, or give the list first."
        )
    found = []
    for element in (f"{key}.{index}" for index in range(num)):
        own = possible.dimensions.get(element)
        dimension = own or _dimension(element, entries.of_one(raw), known, possible)
        distribution = entries.seen_from(element, key, dimension.distribution)
        found.append(replace(dimension, distribution=distribution))
    return found


def _with_effect(dimension: Dimension, effects: SpaceEffects) -> Dimension:
    """The key, set only in trials in which it does something."""
    if (effect := effects.of(dimension.key)) is None:
        return dimension
    return replace(dimension, conditions=(*dimension.conditions, HasEffect(effect)))


def _in_its_list(dimension: Dimension, possible: PossibleValues, effects: SpaceEffects) -> Dimension:
    """The key, if an element, set only in trials whose list is long enough."""
    if not is_element(dimension.key):
        return dimension
    found = elements.split(dimension.key)
    assert found is not None
    listed, index = found
    whole = possible.dimensions.get(listed)
    if whole is not None and not isinstance(whole.distribution, Fixed):
        raise ConfigError(
            f"The space searches {listed} whole and its element {dimension.key}. Keep one of the two: "
            f"elements are searched over a list that is the same in all trials, --fix {listed}=[...]."
        )
    has = [len(each) > index for each in possible.lists(listed)]
    if all(has):
        return dimension
    if not any(has) and not effects.is_idle(dimension.key):
        held: Any = max(possible.lists(listed), key=len) or possible.shared(listed)
        raise ConfigError(f"The space searches {dimension.key}. {elements.missing(dimension.key, held)}")
    return replace(dimension, conditions=(*dimension.conditions, HasElement(listed, index)))
