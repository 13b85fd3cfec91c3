"""What is searched: dotted trial keys and whole groups to distributions, checked before anything starts.

`suggest` asks a sampler for the values of one trial, in an order in which every bound and condition finds
the values it refers to; `apply` makes the TrialConfig of them and `overrides` the words that say the same
on a command line. Values are what a trial gets; params are what a sampler sees (a unit fraction where a
bound refers to another key); `decode` and `encode` go from one to the other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from growcore import keys
from growcore.config import TrialConfig, elements
from growcore.config.acting import Effect
from sweeps.config.errors import ConfigError, suggest_key
from sweeps.config.quoting import quote
from sweeps.config.settings import TRIAL_GROUPS, SweepConfig, build_trial, get_key, is_element, set_key
from sweeps.space import conditions, entries, reading
from sweeps.space.dimensions import Dimension
from sweeps.space.distributions import Choice, Fixed
from sweeps.space.effects import SpaceEffects
from sweeps.space.possible import PossibleValues
from sweeps.space.value_sources import Corner, Given, Random, TrialLike

_NUM_CHECKED = 64  # random trials that a new space must turn into valid configurations


@dataclass(frozen=True, slots=True)
class SpaceRow:
    """One line of the plan's table, for people."""

    key: str
    distribution: str
    condition: str  # empty where the key is always set


class SearchSpace:
    """Every trial a sweep may run.

    Args:
        raw: trial key or group -> distribution, plain YAML values.
        base: the trial that all trials share, as `TrialConfig.to_dict`.
        choices: trial group -> its option in `base`.
        group_options: searched group -> option -> its part of a trial.

    Raises:
        ConfigError: an unknown key, option or distribution, bounds that may cross, references in a circle,
            nothing to search, or a suggestion that is no valid trial; the message names the key.
    """

    def __init__(
        self,
        raw: Mapping[str, Any],
        base: Mapping[str, Any],
        choices: Mapping[str, str] | None = None,
        group_options: Mapping[str, Mapping[str, dict[str, Any]]] | None = None,
    ) -> None:
        self._base = copy.deepcopy(dict(base))
        written = {str(key): value for key, value in raw.items()}
        stated, known = _stated(self.imports)
        options = copy.deepcopy(dict(group_options or {}))
        self._possible = PossibleValues(self._base, dict(choices or {}), options, reading.lengths(written))
        self.effects = SpaceEffects(stated, self._possible.of)
        reading.read(written, [*known, *TRIAL_GROUPS], self._possible, self.effects)
        self._dimensions = self._possible.dimensions
        self._check_dimensions()
        self._check_trials()

    @classmethod
    def of(cls, config: SweepConfig) -> Self:
        """The space of a sweep.

        Raises:
            ConfigError: as above, and a key that is both typed and searched.
        """
        if not config.space:
            raise ConfigError(
                f"The space '{config.space_name}' is empty: nothing is searched. Choose another, for example "
                "space=demo, or add --search optimizer.lr='{float: [1e-3, 1], log: true}'."
            )
        space = cls(config.space, config.trial.to_dict(), config.choices, config.group_options)
        for word in config.overrides:
            key, _, value = word.partition("=")
            if why := space._overwrites(key, value):
                whole = elements.list_of(key) if key not in space._dimensions else key
                raise ConfigError(
                    f"{why} by space={config.space_name}, so {word} would have no effect. "
                    f"To set it for all trials: --fix {whole}={value if whole == key else '[...]'}."
                )
        return space

    def _overwrites(self, key: str, typed: str) -> str:
        """Why a typed value of a key would be seen in no trial; empty where it would be."""
        dimension = self._dimensions.get(key)
        if dimension is not None:
            distribution = dimension.distribution
            # A typed value has an effect where the key is searched around it.
            is_fixed = isinstance(distribution, Fixed) and quote(distribution.value) == typed
            return "" if is_fixed or key in distribution.references else f"{key} is searched"
        if is_element(key) and elements.list_of(key) in self._dimensions:
            return f"{elements.list_of(key)} is set whole"
        if key in self._possible.lengths and self._possible.is_resized(key):
            return f"{key} is searched as a list of {self._possible.lengths[key]}"
        return ""

    @property
    def imports(self) -> list[str]:
        """The modules with methods and networks of one's own."""
        return list(self._base.get("imports", []))

    @property
    def dimensions(self) -> list[Dimension]:
        """In the order in which they are suggested."""
        return list(self._dimensions.values())

    def suggest(self, trial: TrialLike) -> dict[str, Any]:
        """Ask for the values of one trial; keys whose condition does not hold are left out."""
        return self.walk(lambda dimension, lookup: _suggest(dimension, trial, lookup))[0]

    def decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The values that a sampler's params stand for: what `suggest` gave when they were drawn.

        Raises:
            KeyError: a param of an active key is missing.
        """
        return self.suggest(Given(params))

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The sampler's params that stand for `values` (to rounding), for trials given by hand.

        Raises:
            ConfigError: a searched key has no value or one outside its distribution, or a key is not
                searched.
        """
        params = {}

        def take(dimension: Dimension, lookup: Callable[[str], Any]) -> Any:
            distribution = dimension.distribution
            if isinstance(distribution, Fixed):
                return distribution.value
            if dimension.key not in values:
                raise ConfigError(
                    f"The space searches {dimension.key}, which got no value: add {dimension.key}=VALUE."
                )
            params[distribution.name] = distribution.encode(values[dimension.key], lookup)
            return values[dimension.key]

        active, _ = self.walk(take)
        for key in values:
            if key not in active:
                raise ConfigError(f"{key} is not searched here. {suggest_key(key, list(active))}")
        return params

    def apply(self, values: Mapping[str, Any]) -> TrialConfig:
        """The trial that has these values over what all trials share.

        Raises:
            ConfigError: the values make no valid trial.
        """
        return build_trial(self._trial(values))

    def _trial(self, values: Mapping[str, Any]) -> dict[str, Any]:
        trial = copy.deepcopy(self._base)
        for group in [key for key in values if key in TRIAL_GROUPS]:
            trial[group] = copy.deepcopy(self._possible.option(group, values[group]))
        for key in sorted(values, key=is_element):
            if key not in TRIAL_GROUPS:
                self._set(trial, key, values[key])
        return trial

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The words that give these values on a command line, each exactly.

        A list that gets another length than it has without them is one word.
        """
        possible = self._possible
        lists = {key: elements.list_of(key) for key in values if is_element(key)}
        resized = (name for name in lists.values() if name in possible.lengths and possible.is_resized(name))
        whole = dict.fromkeys(resized)
        words = {key: value for key, value in values.items() if lists.get(key) not in whole}
        if whole:
            trial = self._trial(values)
            words |= {name: get_key(trial, name) for name in whole}
        return [f"{key}={value if key in TRIAL_GROUPS else quote(value)}" for key, value in words.items()]

    def describe(self) -> list[SpaceRow]:
        """One row per key, in the order of suggestion."""
        return [SpaceRow(d.key, str(d.distribution), self.condition(d.key)) for d in self.dimensions]

    def sample(self, num: int, seed: int = 0) -> list[dict[str, Any]]:
        """Values of `num` random trials; the same seed gives the same ones."""
        trial = Random(seed)
        return [self.suggest(trial) for _ in range(num)]

    # Walking the space

    def walk(
        self,
        take: Callable[[Dimension, Callable[[str], Any]], Any],
        settled: Callable[[str], bool] = lambda key: True,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Go through the keys of one trial.

        Args:
            take: gives the value of a key; its second argument looks up what keys before it have.
            settled: whether the value of a key is known; keys whose condition names one that is not are
                left out.

        Returns:
            The values of all keys whose conditions hold, and the trial that has them.
        """
        trial, choices = copy.deepcopy(self._base), dict(self._possible.choices)

        def lookup(key: str) -> Any:
            return choices.get(key) if key in TRIAL_GROUPS else get_key(trial, key)

        values: dict[str, Any] = {}
        for dimension in self._dimensions.values():
            named = [name for c in dimension.conditions for name in c.keys]
            if not all(settled(name) and settled(name.partition(".")[0]) for name in named):
                continue
            if not all(condition.holds(lookup) for condition in dimension.conditions):
                continue
            value = take(dimension, lookup)
            values[dimension.key] = value
            if dimension.is_group:
                choices[dimension.key] = value
                trial[dimension.key] = copy.deepcopy(self._possible.option(dimension.key, value))
            else:
                self._set(trial, dimension.key, value)
        return values, trial

    def _set(self, trial: dict[str, Any], key: str, value: Any) -> None:
        """Set a key of a trial; a list that is searched in another length gets it with its first element."""
        listed = elements.list_of(key)
        if is_element(key) and listed in self._possible.lengths:
            num = self._possible.lengths[listed]
            set_key(trial, listed, entries.of_length(get_key(trial, listed), num))
        set_key(trial, key, value)

    def length(self, key: str, lookup: Callable[[str], Any]) -> int:
        """How many entries a list has in a trial whose keys `lookup` gives."""
        held = lookup(key)
        return self._possible.lengths.get(key, len(held) if isinstance(held, list) else 0)

    def option_like(self, group: str, part: Mapping[str, Any]) -> str:
        """An option of a searched group that has the method, or the name, of a trial's part.

        Raises:
            ConfigError: the group has no such option.
        """
        kind = "method" if "method" in part else "name"
        options: list[str] = list(self._dimensions[group].distribution.values)  # type: ignore[union-attr]
        for option in options:
            if self._possible.option(group, option).get(kind) == part.get(kind):
                return option
        known = ", ".join(options)
        raise ConfigError(f"No option of {group} has {group}.{kind}={part.get(kind)}. Known: {known}.")

    def range(self, key: str) -> tuple[float, float]:
        """The smallest and the largest number that a key, searched or not, has in any trial."""
        return self._possible.range(key)

    def condition(self, key: str) -> str:
        """What must hold for a searched key to be set, for people; empty where it always is."""
        return conditions.in_words(self._dimensions[key], self._possible, self.effects)

    # Checks

    def _check_dimensions(self) -> None:
        for dimension in self._dimensions.values():
            for name in dimension.distribution.references:
                low, high = self._possible.extent(name)
                if math.isnan(low) or math.isnan(high):
                    raise ConfigError(
                        f"A bound of {dimension.key} refers to {name}, which is no number in every trial."
                    )
            dimension.distribution.extent(self._possible.extent_seen_from(dimension.key))
        searched = [
            d
            for d in self.dimensions
            if not isinstance(d.distribution, Fixed) and not conditions.is_off(d, self._possible)
        ]
        if not searched:
            raise ConfigError(
                "The space is empty: every key is fixed or switched off. "
                + " ".join(
                    f"{row.key}: {row.distribution}, {row.condition or 'always'}." for row in self.describe()
                )
                + " Search a key with --search KEY='{float: [LOW, HIGH]}'."
            )

    def _check_trials(self) -> None:
        """Corners of the space, every choice, and random trials must be valid."""
        counts = [len(d.distribution.values) for d in self.dimensions if isinstance(d.distribution, Choice)]
        corners = (self.suggest(Corner(index)) for index in range(2 * max(counts, default=1)))
        for values in [*corners, *self.sample(_NUM_CHECKED)]:
            try:
                self.apply(values)
            except ConfigError as error:
                words = " ".join(self.overrides(values))
                raise ConfigError(
                    f"The space gives a trial that is not valid: {error} The trial: {words}"
                ) from error


def _stated(imports: Sequence[str]) -> tuple[dict[str, Effect], list[str]]:
    """When each key does something, and all keys there are; methods of one's own say so too."""
    try:
        return keys.effects(imports), keys.known_keys(imports)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _suggest(dimension: Dimension, trial: TrialLike, lookup: Callable[[str], Any]) -> Any:
    if isinstance(dimension.distribution, Fixed):
        return dimension.distribution.value
    return dimension.distribution.suggest(trial, lookup)
