"""When a key of a configuration has an effect: what other keys must be for it. Values, no torch.

A method or a model family states the keys that act under it: `acting("k1", "k2")` always, and
`acting("activity_threshold", strength=("coactivation",))` where another key of its part has a certain value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Key -> other key of its part -> the values of that one under which it acts; all of them must hold.
Keys = Mapping[str, Mapping[str, tuple[Any, ...]]]
Value = bool | int | float | str


def acting(*names: str, **only_where: Sequence[Any]) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Keys of a part that act together, everywhere or only where others have one of the values given."""
    return {name: {other: tuple(values) for other, values in only_where.items()} for name in names}


@dataclass(frozen=True, slots=True)
class Option:
    """A setting of a user's method that the configuration has no key for: `growth.options.NAME`."""

    default: Value
    meaning: str = ""  # for people, with its unit
    low: float = -math.inf
    high: float = math.inf

    def check(self, key: str, value: Any) -> None:
        """Raise a ValueError where a value is of another type than the default, or out of range."""
        kind = type(self.default)
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits:
            raise ValueError(
                f"{key} must be of type {kind.__name__}; got {value!r}. {self._for_example(key)}"
            )
        if isinstance(value, int | float) and not self.low <= value <= self.high:
            raise ValueError(
                f"{key} must lie in [{self.low:g}, {self.high:g}]; got {value!r}. {self._for_example(key)}"
            )

    def _for_example(self, key: str) -> str:
        return f"For example {key}={self.default}."


@dataclass(frozen=True, slots=True)
class Needs:
    """What one key must be: one of `values`, none of `other_than`, or above a bound."""

    key: str  # dotted
    values: tuple[Any, ...] = ()
    other_than: tuple[Any, ...] = ()
    above: float | None = None

    def allows(self, value: Any) -> bool:
        """Whether a value of the key is what it must be."""
        if self.above is not None:
            return isinstance(value, int | float) and value > self.above
        return value not in self.other_than if self.other_than else value in self.values

    def __str__(self) -> str:
        return f"{self.key} {self.operator} {_words(self.operand)}"

    @property
    def operator(self) -> str:
        """As conditions of a search space write it: ==, !=, in, not in or >."""
        if self.above is not None:
            return ">"
        several = len(self.values or self.other_than) > 1
        if self.other_than:
            return "not in" if several else "!="
        return "in" if several else "=="

    @property
    def operand(self) -> Any:
        """What stands behind the operator: a value, or a list of values."""
        if self.above is not None:
            return self.above
        values = list(self.other_than or self.values)
        return values if len(values) > 1 else values[0]


def _words(operand: Any) -> str:
    if isinstance(operand, list):
        return f"[{', '.join(map(_words, operand))}]"
    if isinstance(operand, float):
        return f"{operand:g}"
    return str(operand).lower() if isinstance(operand, bool) else str(operand)


@dataclass(frozen=True, slots=True)
class Effect:
    """When a key has an effect: in one of these ways, each of which needs all of its parts."""

    ways: tuple[tuple[Needs, ...], ...]

    def holds(self, lookup: Callable[[str], Any]) -> bool:
        """Whether the key has an effect where `lookup` gives the values of others."""
        return any(all(need.allows(lookup(need.key)) for need in way) for way in self.ways)

    @property
    def keys(self) -> list[str]:
        """The keys it depends on, each once."""
        return list(dict.fromkeys(need.key for way in self.ways for need in way))

    def __str__(self) -> str:
        return " or ".join(" and ".join(map(str, way)) for way in self.ways)
