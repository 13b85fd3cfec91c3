"""What is searched: dotted trial keys and whole groups to distributions, checked before anything starts.

`suggest` asks a sampler for the values of one trial, in an order in which every bound and condition finds
the values it refers to; `apply` makes the TrialConfig of them and `overrides` the words that say the same
on a command line. Values are what a trial gets; params are what a sampler sees (a unit fraction where a
bound refers to another key); `decode` and `encode` go from one to the other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from growcore import keys
from growcore.config import TrialConfig, elements, suggest_name
from growcore.config.acting import Effect
from sweeps.config.errors import ConfigError, suggest_key
from sweeps.config.quoting import quote
from sweeps.config.settings import TRIAL_GROUPS, SweepConfig, build_trial, get_key, is_element, set_key
from sweeps.space import effects, entries
from sweeps.space.dimensions import Dimension, in_order
from sweeps.space.distributions import Choice, Fixed, Numeric, parse
from sweeps.space.references import Condition, HasEffect, HasElement
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
        self._choices = dict(choices or {})
        self._group_options = copy.deepcopy(dict(group_options or {}))
        self._stated, known = _stated(self.imports)
        self._known = [*known, *TRIAL_GROUPS]
        named = {str(key): value for key, value in raw.items()}
        lists = {key: value for key, value in named.items() if entries.are_searched(key, value)}
        lengths = {key: entries.length(key, value) for key, value in lists.items()}
        self._lengths = {key: num for key, num in lengths.items() if num is not None}
        # Which values the other keys may have, and how long lists are, is known when all are read.
        self._dimensions = {k: self._dimension(k, value) for k, value in named.items() if k not in lists}
        read = [self._entries(k, lists[k]) if k in lists else [self._dimensions[k]] for k in named]
        self._dimensions = {dimension.key: dimension for each in read for dimension in each}
        dimensions = {k: self._in_its_list(self._with_effect(d)) for k, d in self._dimensions.items()}
        self._dimensions = {key: dimensions[key] for key in in_order(dimensions)}
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
        if key in self._lengths and self._is_resized(key):
            return f"{key} is searched as a list of {self._lengths[key]}"
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
            trial[group] = copy.deepcopy(self._option(group, values[group]))
        for key in sorted(values, key=is_element):
            if key not in TRIAL_GROUPS:
                self._set(trial, key, values[key])
        return trial

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The words that give these values on a command line, each exactly.

        A list that gets another length than it has without them is one word.
        """
        lists = {key: elements.list_of(key) for key in values if is_element(key)}
        whole = {name: None for name in lists.values() if name in self._lengths and self._is_resized(name)}
        words = {key: value for key, value in values.items() if lists.get(key) not in whole}
        if whole:
            trial = self._trial(values)
            words |= {name: get_key(trial, name) for name in whole}
        return [f"{key}={value if key in TRIAL_GROUPS else quote(value)}" for key, value in words.items()]

    def describe(self) -> list[SpaceRow]:
        """One row per key, in the order of suggestion."""
        return [SpaceRow(d.key, str(d.distribution), self._condition_text(d)) for d in self.dimensions]

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
        trial, choices = copy.deepcopy(self._base), dict(self._choices)

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
                trial[dimension.key] = copy.deepcopy(self._option(dimension.key, value))
            else:
                self._set(trial, dimension.key, value)
        return values, trial

    def _set(self, trial: dict[str, Any], key: str, value: Any) -> None:
        """Set a key of a trial; a list that is searched in another length gets it with its first element."""
        listed = elements.list_of(key)
        if is_element(key) and listed in self._lengths:
            set_key(trial, listed, entries.of_length(get_key(trial, listed), self._lengths[listed]))
        set_key(trial, key, value)

    def length(self, key: str, lookup: Callable[[str], Any]) -> int:
        """How many entries a list has in a trial whose keys `lookup` gives."""
        held = lookup(key)
        return self._lengths.get(key, len(held) if isinstance(held, list) else 0)

    def option_like(self, group: str, part: Mapping[str, Any]) -> str:
        """An option of a searched group that has the method, or the name, of a trial's part.

        Raises:
            ConfigError: the group has no such option.
        """
        kind = "method" if "method" in part else "name"
        options: list[str] = list(self._dimensions[group].distribution.values)  # type: ignore[union-attr]
        for option in options:
            if self._option(group, option).get(kind) == part.get(kind):
                return option
        known = ", ".join(options)
        raise ConfigError(f"No option of {group} has {group}.{kind}={part.get(kind)}. Known: {known}.")

    def range(self, key: str) -> tuple[float, float]:
        """The smallest and the largest number that a key, searched or not, has in any trial."""
        values = self._possible(key)
        return self._extent(key) if values is None else (min(values), max(values))

    def condition(self, key: str) -> str:
        """What must hold for a searched key to be set, for people; empty where it always is."""
        return self._condition_text(self._dimensions[key])

    def _option(self, group: str, option: Any) -> dict[str, Any]:
        known = self._group_options.get(group, {})
        if str(option) not in known:
            raise ConfigError(
                f"Unknown option {group}={option} in the space. {suggest_name(str(option), list(known))}"
            )
        return known[str(option)]

    # Checks

    def _entries(self, key: str, raw: Mapping[str, Any]) -> list[Dimension]:
        """A dimension for each entry of a list; some may have one of their own."""
        num = max(map(len, self._lists(key)))
        if num == 0:
            raise ConfigError(
                f"The space searches the entries of {key}, which has none. Say how many: "
                f"{{int: [LOW, HIGH], length: 3}}, or give the list first."
            )
        found = []
        for element in (f"{key}.{index}" for index in range(num)):
            dimension = self._dimensions.get(element) or self._dimension(element, entries.of_one(raw))
            own = entries.seen_from(element, key, dimension.distribution)
            found.append(replace(dimension, distribution=own))
        return found

    def _lists(self, key: str) -> list[list[Any]]:
        """What a list may be in trials, before its elements are set; what is no list as an empty one."""
        held = self._possible(key) or [None]
        if key in self._lengths:
            return [entries.of_length(each, self._lengths[key]) for each in held]
        return [each if isinstance(each, list) else [] for each in held]

    def _is_resized(self, key: str) -> bool:
        """Whether a list that is searched in a length of its own has another without being searched."""
        return any(not isinstance(v, list) or len(v) != self._lengths[key] for v in self._possible(key) or ())

    def _in_its_list(self, dimension: Dimension) -> Dimension:
        """The key, if an element, set only in trials whose list is long enough."""
        if not is_element(dimension.key):
            return dimension
        found = elements.split(dimension.key)
        assert found is not None
        listed, index = found
        if listed in self._dimensions and not isinstance(self._dimensions[listed].distribution, Fixed):
            raise ConfigError(
                f"The space searches {listed} whole and its element {dimension.key}. Keep one of the two: "
                f"elements are searched over a list that is the same in all trials, --fix {listed}=[...]."
            )
        has = [len(each) > index for each in self._lists(listed)]
        if all(has):
            return dimension
        if not any(has) and not self.is_idle(dimension.key):
            held: Any = max(self._lists(listed), key=len) or self._shared_value(listed)
            raise ConfigError(f"The space searches {dimension.key}. {elements.missing(dimension.key, held)}")
        return replace(dimension, conditions=(*dimension.conditions, HasElement(listed, index)))

    def _is_known(self, key: str) -> bool:
        return key in self._known or is_element(key)

    def _dimension(self, key: str, raw: Any) -> Dimension:
        entries.check_whole(key, raw)
        if not self._is_known(key):
            hint = suggest_key(key, self._known)
            raise ConfigError(f"The space searches '{key}', which is no trial key. {hint}")
        distribution, conditions = parse(key, raw)
        if key in TRIAL_GROUPS:
            if isinstance(distribution, Numeric):
                raise ConfigError(f"The group {key} is chosen whole: write {{choice: [OPTION, OPTION]}}.")
            for option in distribution.values:
                self._option(key, option)
        for name, role in [(c.key, "condition") for c in conditions] + [
            (name, "bound") for name in distribution.references
        ]:
            if not self._is_known(name) or (role == "bound" and name in TRIAL_GROUPS):
                raise ConfigError(
                    f"The {role} of {key} refers to unknown key '{name}'. {suggest_key(name, self._known)}"
                )
        return Dimension(key, distribution, tuple(conditions))

    def _with_effect(self, dimension: Dimension) -> Dimension:
        """The key, set only in trials in which it does something."""
        if (effect := self.effect(dimension.key)) is None:
            return dimension
        return replace(dimension, conditions=(*dimension.conditions, HasEffect(effect)))

    def effect(self, key: str) -> Effect | None:
        """When a trial key does something, of what differs between trials; None: always."""
        stated = keys.stated(self._stated, key)
        found = None if stated is None else effects.seen_from(stated, self._possible)
        return None if found is None or effects.always(found) else found

    def is_idle(self, key: str) -> bool:
        """Whether a key does nothing in any trial."""
        effect = self.effect(key)
        return effect is not None and effects.never(effect)

    def why_never(self, key: str) -> str:
        """Why a key does nothing in any trial: `pruning.method is set`."""
        stated = keys.stated(self._stated, key)
        assert stated is not None, f"{key} always does something"
        for need in (need for way in stated.ways for need in way):
            values = self._possible(need.key) or ()
            if len(set(map(str, values))) == 1 and not need.allows(values[0]):
                return f"{need.key} is {values[0]}"
        return f"no trial has {stated}"

    def stated(self, key: str) -> str:
        """What a key needs to do anything, as methods and families state it."""
        return str(keys.stated(self._stated, key))

    def _possible(self, key: str) -> Sequence[Any] | None:
        """The values of a key in the trials of this space; None where they cannot be listed."""
        part = key.partition(".")[0]
        group = self._dimensions.get(part)
        if group is not None and not group.conditions:
            options = group.distribution.values  # type: ignore[union-attr]
            shared = [get_key({part: self._option(part, option)}, key) for option in options]
        else:
            shared = list(self._shared(key))
        dimension = self._dimensions.get(key)
        if dimension is None:
            return shared
        if isinstance(dimension.distribution, Numeric):
            return None
        return [*dimension.distribution.values, *(shared if dimension.conditions else [])]

    def _check_dimensions(self) -> None:
        for dimension in self._dimensions.values():
            for name in dimension.distribution.references:
                low, high = self._extent(name)
                if math.isnan(low) or math.isnan(high):
                    raise ConfigError(
                        f"A bound of {dimension.key} refers to {name}, which is no number in every trial."
                    )
            dimension.distribution.extent(self._extent_seen_from(dimension.key))
        searched = [
            d for d in self.dimensions if not isinstance(d.distribution, Fixed) and not self._is_off(d)
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

    def _shared(self, key: str) -> Iterator[Any]:
        """The values a key may have where it is not searched."""
        part = key.partition(".")[0]
        yield get_key(self._base, key)
        if part in self._dimensions:
            for option in self._dimensions[part].distribution.values:  # type: ignore[union-attr]
                yield get_key({part: self._option(part, option)}, key)
        whole = self._dimensions.get(elements.list_of(key))
        if whole is not None and is_element(key) and not isinstance(whole.distribution, Numeric):
            for value in whole.distribution.values:
                yield get_key({part: {whole.key.partition(".")[2]: value}}, key)

    def _extent(self, key: str) -> tuple[float, float]:
        dimension = self._dimensions.get(key)
        if dimension is not None and not dimension.conditions:
            return dimension.distribution.extent(self._extent_seen_from(key))
        numbers = [
            value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
            for value in self._shared(key)
        ]
        if dimension is not None:
            numbers += dimension.distribution.extent(self._extent_seen_from(key))
        return (math.nan, math.nan) if any(map(math.isnan, numbers)) else (min(numbers), max(numbers))

    def _extent_seen_from(self, key: str) -> Callable[[str], tuple[float, float]]:
        def extent(other: str) -> tuple[float, float]:
            if other != key:
                return self._extent(other)
            numbers = list(self._shared(key))
            return min(numbers), max(numbers)

        return extent

    # For people

    def _is_off(self, dimension: Dimension) -> bool:
        """Whether a condition can hold in no trial, as it names nothing that is searched and fails."""
        return any(self._never(condition) for condition in dimension.conditions)

    def _never(self, condition: Condition | HasEffect | HasElement) -> bool:
        if isinstance(condition, HasEffect):
            return effects.never(condition.effect)
        if isinstance(condition, HasElement):
            return False  # such a key is refused
        part = condition.key.partition(".")[0]
        if part in self._dimensions or condition.key in self._dimensions:
            return False
        return not condition.holds(self._shared_value)

    def _shared_value(self, key: str) -> Any:
        return self._choices.get(key) if key in TRIAL_GROUPS else get_key(self._base, key)

    def _condition_text(self, dimension: Dimension) -> str:
        never = [c for c in dimension.conditions if self._never(c)]
        if never:
            is_written = isinstance(never[0], Condition)
            name = never[0].keys[0] if is_written else ""
            why = f"{name} is {self._shared_value(name)}" if is_written else self.why_never(dimension.key)
            return f"never: {why}"
        part = dimension.key.partition(".")[0]
        written = [c for c in dimension.conditions if isinstance(c, Condition) and not self._always(c)]
        # `growth == tiny` already says what the method is.
        said = {part, f"{part}.method", f"{part}.name"} & {c.key for c in written}
        implied = [c.effect for c in dimension.conditions if isinstance(c, HasEffect)]
        if said:
            implied = [effects.without(effect, {f"{part}.method", f"{part}.name"}) for effect in implied]
        needed = [str(effect) for effect in implied if not effects.always(effect)]
        lists = [str(c) for c in dimension.conditions if isinstance(c, HasElement)]
        return " and ".join([*map(str, written), *needed, *lists])

    def _always(self, condition: Condition) -> bool:
        part = condition.key.partition(".")[0]
        searched = part in self._dimensions or condition.key in self._dimensions
        return not searched and condition.holds(self._shared_value)


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
