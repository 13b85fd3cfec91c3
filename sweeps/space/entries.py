"""Lists in a space: their elements are keys, and a distribution of a list is one of each entry.

    model.widths.0: {int: [2, 24], log: true}                one entry
    model.widths: {int: [4, 64], log: true}                  each entry of the list that trials share
    model.widths: {int: [4, 64], log: true, length: 3}       each entry of a list of three
    growth.max_width: {int: [8, 64], length: 3}              without length: one number for all layers

A key that holds nothing but lists can only mean its entries by the distribution of a number, which is written
as for any key; `length` alone is new. Every entry is an axis of its own for the sampler, under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from growcore.config import list_keys
from sweeps.config.errors import ConfigError
from sweeps.space.distributions import Distribution, Numeric
from sweeps.space.references import Bound, in_words

_MAX_LENGTH = 1000  # more entries than any network has layers


def are_searched(key: str, raw: Any) -> bool:
    """Whether what a space gives for a key is a distribution of the entries of a list."""
    if key not in list_keys() or not isinstance(raw, Mapping):
        return False
    if "length" in raw:
        return True
    holds_lists_only = not list_keys()[key]
    return holds_lists_only and ("int" in raw or "float" in raw or _is_of_entries(raw.get("choice")))


def check_whole(key: str, raw: Any) -> None:
    """Refuse a bare list of numbers for a list, which may mean its entries or itself.

    Raises:
        ConfigError: what may be meant, each as it is written.
    """
    if key in list_keys() and not list_keys()[key] and _is_of_entries(raw):
        listed = in_words(raw)
        raise ConfigError(
            f"The space gives {key} the list {listed}, which may be read in two ways. Write "
            f"{{choice: {listed}}} to search each entry among these, {{value: {listed}}} for the list itself."
        )


def length(key: str, raw: Mapping[str, Any]) -> int | None:
    """How many entries a list has that is searched by entries; None: as many as it has.

    Raises:
        ConfigError: it is no positive whole number.
    """
    given = raw.get("length")
    if given is not None and (type(given) is not int or not 1 <= given <= _MAX_LENGTH):
        raise ConfigError(
            f"length of {key} must be a whole number from 1 to {_MAX_LENGTH}; got {in_words(given)}."
        )
    return given


def of_length(held: Any, num: int) -> list[Any]:
    """What a list's key holds, as a list of so many entries: cut, or with its last one repeated."""
    entries = held if isinstance(held, list) and held else [None if isinstance(held, list) else held]
    return [*entries, *[entries[-1]] * (num - len(entries))][:num]


def of_one(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The distribution of an entry."""
    return {name: value for name, value in raw.items() if name != "length"}


def seen_from(element: str, key: str, distribution: Distribution) -> Distribution:
    """The distribution of an entry, where a bound that refers to the list means the same entry of it."""
    if not isinstance(distribution, Numeric):
        return distribution

    def own(bound: Bound) -> Bound:
        return replace(bound, key=element) if bound.key == key else bound

    return replace(distribution, low=own(distribution.low), high=own(distribution.high))


def _is_of_entries(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and not any(isinstance(v, list) for v in values)
