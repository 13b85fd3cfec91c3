"""Where a space refers to other keys: bounds of a distribution, and conditions under which a key is set."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from growcore.config.acting import Effect
from sweeps.config.errors import ConfigError

_NAME = r"[A-Za-z_]\w*(?:\.(?:[A-Za-z_]\w*|\d+))*"  # elements of lists too
_NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_REFERENCE = re.compile(rf"(?:({_NUMBER})\s*\*\s*)?({_NAME})(?:\s*([+-])\s*({_NUMBER}))?")
_CONDITION = re.compile(rf"({_NAME})\s*(==|!=|<=|>=|<|>|not in\b|in\b)\s*(.+)")
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda value, other: bool(value == other),
    "!=": lambda value, other: bool(value != other),
    "<": lambda value, other: bool(value < other),
    "<=": lambda value, other: bool(value <= other),
    ">": lambda value, other: bool(value > other),
    ">=": lambda value, other: bool(value >= other),
    "in": lambda value, other: value in other,
    "not in": lambda value, other: value not in other,
}

Lookup = Callable[[str], Any]  # the value a key has in the trial as far as it is built
Extent = Callable[[str], tuple[float, float]]  # the smallest and largest value a key may have


@dataclass(frozen=True, slots=True)
class Bound:
    """factor * (value of key) + offset; without a key, offset alone."""

    factor: float
    key: str | None
    offset: float

    def value(self, lookup: Lookup) -> float:
        """The bound where `lookup` gives the key's value."""
        return self.offset if self.key is None else self.factor * lookup(self.key) + self.offset

    def extent(self, extent: Extent) -> tuple[float, float]:
        """The smallest and largest value of the bound; factors are positive."""
        if self.key is None:
            return self.offset, self.offset
        low, high = extent(self.key)
        return self.factor * low + self.offset, self.factor * high + self.offset

    def __str__(self) -> str:
        if self.key is None:
            return f"{self.offset:g}"
        factor = "" if self.factor == 1 else f"{self.factor:g} * "
        offset = "" if self.offset == 0 else f" {'+-'[self.offset < 0]} {abs(self.offset):g}"
        return f"{factor}{self.key}{offset}"


@dataclass(frozen=True, slots=True)
class Condition:
    """`key operator value`; the key is a trial key or a trial group, whose value is its option."""

    key: str
    operator: str
    value: Any

    @property
    def keys(self) -> list[str]:
        """The one key it depends on."""
        return [self.key]

    def holds(self, lookup: Lookup) -> bool:
        """Whether it is met where `lookup` gives the key's value; a missing number compares false."""
        value = lookup(self.key)
        return (value is not None or self.operator[0] not in "<>") and _COMPARISONS[self.operator](
            value, self.value
        )

    def __str__(self) -> str:
        return f"{self.key} {self.operator} {in_words(self.value)}"


@dataclass(frozen=True, slots=True)
class HasEffect:
    """That a key does something, as growth methods, pruning methods and model families state it."""

    effect: Effect

    @property
    def keys(self) -> list[str]:
        """The keys it depends on."""
        return self.effect.keys

    def holds(self, lookup: Lookup) -> bool:
        """Whether it is so where `lookup` gives the values of other keys."""
        return self.effect.holds(lookup)

    def __str__(self) -> str:
        return str(self.effect)


@dataclass(frozen=True, slots=True)
class HasElement:
    """That a list is long enough to have an element."""

    key: str  # of the list
    index: int

    @property
    def keys(self) -> list[str]:
        """The list."""
        return [self.key]

    def holds(self, lookup: Lookup) -> bool:
        """Whether it is so where `lookup` gives the list."""
        entries = lookup(self.key)
        return isinstance(entries, list) and len(entries) > self.index

    def __str__(self) -> str:
        return f"{self.key} has {self.index + 1} or more"


def read_bound(key: str, kind: str, raw: Any) -> Bound:
    """Read a bound of `key`, whose distribution is an int or a float; ConfigError where it is none."""
    if isinstance(raw, int | float) and not isinstance(raw, bool) and math.isfinite(raw):
        if kind == "int" and not isinstance(raw, int):
            raise ConfigError(
                f"int for {key} needs whole bounds; got {raw}. Write {{float: ...}} for fractions."
            )
        return Bound(0.0, None, raw)
    match = _REFERENCE.fullmatch(raw.strip()) if isinstance(raw, str) else None
    if match is None:
        raise ConfigError(
            f"A bound of {key} must be a number or refer to a key, as in 'pruning.k1' or "
            f"'0.5 * optimizer.lr'; got {in_words(raw)}."
        )
    factor, name, sign, offset = match.groups()
    if factor is not None and float(factor) == 0:
        raise ConfigError(f"The factor of a bound of {key} must be positive; got {in_words(raw)}.")
    shift = float(f"{sign}{offset}") if offset else 0.0
    return Bound(float(factor) if factor else 1.0, name, shift)


def read_conditions(key: str, when: Any) -> list[Condition]:
    """Read what stands behind `when` of `key`; ConfigError where it is no condition."""
    if when is None:
        return []
    parts = [_CONDITION.fullmatch(part.strip()) for part in re.split(r"\band\b", str(when))]
    found = []
    for match in parts:
        if match is None:
            raise ConfigError(
                f"Cannot read the condition of {key}: got when: {when}. Write KEY == VALUE (or !=, <, <=, "
                ">, >=, in [A, B], not in [A, B]), joined by 'and'."
            )
        name, operator, written = match.groups()
        value = _literal(key, written)
        if operator.endswith("in") and not isinstance(value, list):
            raise ConfigError(f"'{operator}' in the condition of {key} needs a list, [A, B]; got {written}.")
        if operator[0] in "<>" and not isinstance(value, int | float):
            raise ConfigError(f"'{operator}' in the condition of {key} needs a number; got {written}.")
        found.append(Condition(name, operator, value))
    return found


def _literal(key: str, written: str) -> Any:
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError as error:
        raise ConfigError(f"Cannot read '{written}' in the condition of {key}.") from error
    # PyYAML takes 1e-3 for a text; Hydra, which reads the files, does not.
    items = [float(v) if isinstance(v, str) and re.fullmatch(_NUMBER, v) else v for v in _list(value)]
    return items if isinstance(value, list) else items[0]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def in_words(value: Any) -> str:
    """A plain value as people write it."""
    return value if isinstance(value, str) else json.dumps(value)
