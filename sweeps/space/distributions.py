"""What may stand behind a key of a space: distributions, bounds and conditions, read from YAML values.

    {float: [LOW, HIGH], log: true}     a number, evenly spread in its logarithm
    {float: [LOW, HIGH], step: 0.1}     LOW, LOW + 0.1, ... up to HIGH
    {int: [LOW, HIGH]}                  LOW and HIGH included; log and step as above
    {choice: [A, B]} or [A, B]          one of several values
    {value: A} or A                     fixed beside what is searched
    when: growth != none and pruning.k1 > 0.2     in any of these: the key is set only where this holds

A list is searched by its entries: see `sweeps.space.entries`.

LOW and HIGH are numbers or refer to a key: `pruning.k1`, `0.5 * optimizer.lr`, `pruning.k1 + 0.1`. A key
that refers to itself means the value all trials share. A distribution with a reference is searched as a
unit fraction u in [0, 1], so that samplers see independent axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from growcore.config import suggest_name
from sweeps.config.errors import ConfigError
from sweeps.space.references import Bound, Condition, Extent, Lookup, in_words, read_bound, read_conditions
from sweeps.space.value_sources import TrialLike

_FORMS = "{float: [LOW, HIGH]}, {int: [LOW, HIGH]}, {choice: [A, B]} or {value: A}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Numeric:
    """A number between two bounds, both included."""

    key: str
    low: Bound
    high: Bound
    is_integer: bool
    log: bool
    step: float | None

    @property
    def references(self) -> list[str]:
        """Keys the bounds refer to, the key itself included."""
        return [bound.key for bound in (self.low, self.high) if bound.key is not None]

    @property
    def name(self) -> str:
        """Of the sampler's parameter: the key, and `KEY:unit` where a unit fraction is searched."""
        return f"{self.key}:unit" if self.references else self.key

    def suggest(self, trial: TrialLike, lookup: Lookup) -> float | int:
        """Ask for a value."""
        low, high = self.bounds(lookup)
        if self.references:
            return self._from_unit(trial.suggest_float(self.name, 0.0, 1.0), low, high)
        if self.is_integer:
            return trial.suggest_int(self.name, int(low), int(high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.name, low, high, step=self.step, log=self.log)

    def encode(self, value: float, lookup: Lookup) -> float:
        """The sampler's parameter that gives `value`.

        Raises:
            ConfigError: the value lies outside the bounds.
        """
        low, high = self.bounds(lookup)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ConfigError(
                f"{self.key}={value!r} lies outside its space: {self} is {low:g} to {high:g} here."
            )
        if not self.references:
            return value
        if low == high:
            return 0.5
        if self.log:
            half = 0.5 if self.is_integer else 0.0
            return math.log(value / (low - half)) / math.log((high + half) / (low - half))
        if self.is_integer or self.step:
            step = self.step or 1
            # The middle of the value's share of [0, 1], so that rounding leads back to it.
            return (round((value - low) / step) + 0.5) / (math.floor((high - low) / step + 1e-9) + 1)
        return (value - low) / (high - low)

    def bounds(self, lookup: Lookup) -> tuple[float, float]:
        """Low and high where `lookup` gives the keys they refer to; high moved down onto the step."""
        low, high = self._inward(self.low.value(lookup), self.high.value(lookup))
        if self.step:
            high = min(high, low + math.floor((high - low) / self.step + 1e-9) * self.step)
        return low, high

    def extent(self, extent: Extent) -> tuple[float, float]:
        """The smallest and largest value any trial may get.

        Raises:
            ConfigError: low may exceed high, or a logarithm needs values above zero.
        """
        low_min, low_max = self.low.extent(extent)
        high_min, high_max = self.high.extent(extent)
        pairs = [(low_max, high_min)]
        if self.low.key is not None and self.low.key == self.high.key:
            # Both bounds move with one key, so they meet at the same value of it.
            pairs = [(low_min, high_min), (low_max, high_max)]
        for low, high in pairs:
            self._check_crossing(low, high)
        if self.log and low_min <= 0:
            raise ConfigError(
                f"The space searches {self.key} by its logarithm, which needs a low bound above 0; "
                f"got {self}. Raise the bound, or leave log out."
            )
        return low_min, high_max

    def _check_crossing(self, low: float, high: float) -> None:
        inward_low, inward_high = self._inward(low, high)
        if inward_low > inward_high:
            where = f", where low reaches {low:g} and high falls to {high:g}" if self.references else ""
            raise ConfigError(
                f"The space gives {self.key} a low bound above its high bound: got {self}{where}. "
                f"Let low be at most {high:g}, or high at least {low:g}."
            )

    @property
    def _kind(self) -> str:
        return "int" if self.is_integer else "float"

    def _inward(self, low: float, high: float) -> tuple[float, float]:
        if not self.is_integer:
            return low, high
        return math.ceil(low - 1e-9), math.floor(high + 1e-9)

    def _from_unit(self, unit: float, low: float, high: float) -> float | int:
        raw: float
        if self.is_integer and self.log:
            # Every integer owns half a unit to both sides, as it does in Optuna.
            raw = round((low - 0.5) * ((high + 0.5) / (low - 0.5)) ** unit)
        elif self.is_integer or self.step:
            step = self.step or 1
            count = math.floor((high - low) / step + 1e-9) + 1
            raw = low + min(int(unit * count), count - 1) * step
        elif self.log:
            raw = low * (high / low) ** unit
        else:
            raw = low + unit * (high - low)
        # Rounding must not carry a value past its bound: k2 < k1 would be no valid trial.
        clamped = min(max(raw, low), high)
        return int(clamped) if self.is_integer else clamped

    def __str__(self) -> str:
        options = (", log" if self.log else "") + (f", step {self.step:g}" if self.step else "")
        return f"{self._kind} {self.low} to {self.high}{options}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of several values; lists are told to the sampler as their text."""

    key: str
    values: tuple[Any, ...]

    @property
    def references(self) -> list[str]:
        """None: choices do not depend on other keys."""
        return []

    @property
    def name(self) -> str:
        """Of the sampler's parameter."""
        return self.key

    @property
    def labels(self) -> list[Any]:
        """What the sampler sees of each value."""
        return [in_words(v) if isinstance(v, list | dict) else v for v in self.values]

    def suggest(self, trial: TrialLike, lookup: Lookup) -> Any:
        """Ask for a value."""
        label = trial.suggest_categorical(self.name, self.labels)
        return self.values[self.labels.index(label)]

    def encode(self, value: Any, lookup: Lookup) -> Any:
        """The sampler's parameter that gives `value`.

        Raises:
            ConfigError: the value is no choice.
        """
        if value not in self.values:
            raise ConfigError(f"{self.key}={in_words(value)} lies outside its space: {self}.")
        return self.labels[self.values.index(value)]

    def extent(self, extent: Extent) -> tuple[float, float]:
        """The smallest and largest number among the choices."""
        numbers = [v for v in self.values if isinstance(v, int | float)]
        return min(numbers, default=math.nan), max(numbers, default=math.nan)

    def __str__(self) -> str:
        return f"one of {', '.join(map(in_words, self.values))}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """A value beside searched ones; the sampler does not see it."""

    key: str
    value: Any

    @property
    def references(self) -> list[str]:
        """None."""
        return []

    @property
    def values(self) -> tuple[Any, ...]:
        """The one value."""
        return (self.value,)

    def extent(self, extent: Extent) -> tuple[float, float]:
        """The value, where it is a number."""
        return (self.value, self.value) if isinstance(self.value, int | float) else (math.nan, math.nan)

    def __str__(self) -> str:
        return f"fixed at {in_words(self.value)}"


Distribution = Numeric | Choice | Fixed


def parse(key: str, raw: Any) -> tuple[Distribution, list[Condition]]:
    """Read what a space gives for a key.

    Args:
        key: dotted trial key or trial group.
        raw: plain YAML value.

    Raises:
        ConfigError: the value is no distribution, or its bounds or condition cannot be read.
    """
    if isinstance(raw, list):
        return _choice(key, raw), []
    if not isinstance(raw, Mapping):
        return Fixed(key=key, value=raw), []
    options = dict(raw)
    conditions = read_conditions(key, options.pop("when", None))
    kinds = [name for name in options if name in ("float", "int", "choice", "value")]
    if len(kinds) != 1:
        name = next((str(name) for name in options if name not in ("log", "step")), str(raw))
        hint = suggest_name(name, ["float", "int", "choice", "value"])
        raise ConfigError(f"Unknown distribution of {key}: got {in_words(dict(raw))}. {hint} Write {_FORMS}.")
    value = options.pop(kinds[0])
    allowed = ("log", "step") if kinds[0] in ("float", "int") else ()
    for name in options:
        if name not in allowed:
            hint = suggest_name(str(name), [*allowed, "when"])
            raise ConfigError(f"Unknown option '{name}' of the distribution of {key}. {hint}")
    if kinds[0] == "value":
        return Fixed(key=key, value=value), conditions
    if kinds[0] == "choice":
        return _choice(key, value), conditions
    return _numeric(key, kinds[0], value, options), conditions


def _choice(key: str, values: Any) -> Choice:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"A choice for {key} needs a list of values; got {in_words(values)}.")
    texts = [in_words(value) for value in values]
    if doubled := [text for text in texts if texts.count(text) > 1]:
        raise ConfigError(f"The choice for {key} names {doubled[0]} twice. Name every value once.")
    return Choice(key=key, values=tuple(values))


def _numeric(key: str, kind: str, bounds: Any, options: dict[str, Any]) -> Numeric:
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise ConfigError(f"{kind} for {key} needs two bounds, [LOW, HIGH]; got {in_words(bounds)}.")
    log, step = options.get("log", False), options.get("step")
    if not isinstance(log, bool):
        raise ConfigError(f"log of {key} must be true or false; got {in_words(log)}.")
    if log and step is not None:
        raise ConfigError(f"log and step exclude each other; got both for {key}. Leave one out.")
    kinds = (int,) if kind == "int" else (int, float)
    if step is not None and (type(step) not in kinds or step <= 0):
        raise ConfigError(f"step of {key} must be a positive {kind}; got {in_words(step)}.")
    low, high = (read_bound(key, kind, raw) for raw in bounds)
    return Numeric(key=key, low=low, high=high, is_integer=kind == "int", log=log, step=step)
