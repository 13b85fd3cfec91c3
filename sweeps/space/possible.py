"""What keys may be in the trials of a space, whether they are searched or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from growcore.config import elements, suggest_name
from sweeps.config.errors import ConfigError
from sweeps.config.settings import TRIAL_GROUPS, get_key, is_element
from sweeps.space import entries
from sweeps.space.dimensions import Dimension
from sweeps.space.distributions import Numeric

Extent = tuple[float, float]  # the smallest and the largest number


@dataclass(slots=True)
class PossibleValues:
    """The values of keys in any trial: of what all trials share, of options, and of what is searched."""

    base: Mapping[str, Any]  # the trial that all trials share
    choices: Mapping[str, str]  # trial group -> its option in `base`
    options: Mapping[str, Mapping[str, dict[str, Any]]]  # searched group -> option -> its part of a trial
    lengths: Mapping[str, int]  # lists that are searched in a length of their own
    dimensions: dict[str, Dimension] = field(default_factory=dict)

    def option(self, group: str, option: Any) -> dict[str, Any]:
        """The part of a trial that an option of a searched group is.

        Raises:
            ConfigError: there is no such option.
        """
        known = self.options.get(group, {})
        if str(option) not in known:
            raise ConfigError(
                f"Unknown option {group}={option} in the space. {suggest_name(str(option), list(known))}"
            )
        return known[str(option)]

    def shared(self, key: str) -> Any:
        """What all trials have that do not search a key; of a group its option."""
        return self.choices.get(key) if key in TRIAL_GROUPS else get_key(self.base, key)

    def is_searched(self, key: str) -> bool:
        """Whether trials differ in a key, as it or its group is searched."""
        return key in self.dimensions or key.partition(".")[0] in self.dimensions

    def of(self, key: str) -> Sequence[Any] | None:
        """The values of a key in the trials of this space; None where they cannot be listed."""
        part = key.partition(".")[0]
        group = self.dimensions.get(part)
        if group is not None and not group.conditions:
            unsearched = list(self._of_options(group, key))
        else:
            unsearched = list(self._unsearched(key))
        dimension = self.dimensions.get(key)
        if dimension is None:
            return unsearched
        if isinstance(dimension.distribution, Numeric):
            return None
        return [*dimension.distribution.values, *(unsearched if dimension.conditions else [])]

    def lists(self, key: str) -> list[list[Any]]:
        """What a list may be in trials, before its elements are set; what is no list as an empty one."""
        held = self.of(key) or [None]
        if key in self.lengths:
            return [entries.of_length(each, self.lengths[key]) for each in held]
        return [each if isinstance(each, list) else [] for each in held]

    def is_resized(self, key: str) -> bool:
        """Whether a list that is searched in a length of its own has another without being searched."""
        return any(not isinstance(v, list) or len(v) != self.lengths[key] for v in self.of(key) or ())

    def range(self, key: str) -> Extent:
        """The smallest and the largest number that a key, searched or not, has in any trial."""
        values = self.of(key)
        return self.extent(key) if values is None else (min(values), max(values))

    def extent(self, key: str) -> Extent:
        """As `range`, for a bound that refers to the key; NaN where it is no number in every trial."""
        dimension = self.dimensions.get(key)
        if dimension is not None and not dimension.conditions:
            return dimension.distribution.extent(self.extent_seen_from(key))
        numbers = [
            value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
            for value in self._unsearched(key)
        ]
        if dimension is not None:
            numbers += dimension.distribution.extent(self.extent_seen_from(key))
        return (math.nan, math.nan) if any(map(math.isnan, numbers)) else (min(numbers), max(numbers))

    def extent_seen_from(self, key: str) -> Callable[[str], Extent]:
        """The extents that a key's bounds refer to; of itself, what it has where it is not searched."""

        def extent(other: str) -> Extent:
            if other != key:
                return self.extent(other)
            numbers = list(self._unsearched(key))
            return min(numbers), max(numbers)

        return extent

    def _unsearched(self, key: str) -> Iterator[Any]:
        """The values a key may have where it is not searched."""
        part = key.partition(".")[0]
        yield get_key(self.base, key)
        if part in self.dimensions:
            yield from self._of_options(self.dimensions[part], key)
        whole = self.dimensions.get(elements.list_of(key))
        if whole is not None and is_element(key) and not isinstance(whole.distribution, Numeric):
            for value in whole.distribution.values:
                yield get_key({part: {whole.key.partition(".")[2]: value}}, key)

    def _of_options(self, group: Dimension, key: str) -> Iterator[Any]:
        for option in group.distribution.values:  # type: ignore[union-attr]
            yield get_key({group.key: self.option(group.key, option)}, key)
