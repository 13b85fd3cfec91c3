"""Which keys of a sweep's trials do something: what methods and families state, seen from one space."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from growcore import keys
from growcore.config.acting import Effect, Needs

# The values a key may have in a trial; None: more than can be listed.
Possible = Callable[[str], Sequence[Any] | None]


@dataclass(frozen=True, slots=True)
class SpaceEffects:
    """When the keys of a space do something."""

    stated: Mapping[str, Effect]  # as methods and families state it
    possible: Possible

    def of(self, key: str) -> Effect | None:
        """When a trial key does something, of what differs between trials; None: always."""
        stated = keys.stated(self.stated, key)
        found = None if stated is None else seen_from(stated, self.possible)
        return None if found is None or always(found) else found

    def is_idle(self, key: str) -> bool:
        """Whether a key does nothing in any trial."""
        effect = self.of(key)
        return effect is not None and never(effect)

    def why_never(self, key: str) -> str:
        """Why a key does nothing in any trial: `pruning.method is set`."""
        stated = keys.stated(self.stated, key)
        assert stated is not None, f"{key} always does something"
        for need in (need for way in stated.ways for need in way):
            values = self.possible(need.key) or ()
            if len(set(map(str, values))) == 1 and not need.allows(values[0]):
                return f"{need.key} is {values[0]}"
        return f"no trial has {stated}"

    def needs(self, key: str) -> str:
        """What a key needs to do anything, as methods and families state it."""
        return str(keys.stated(self.stated, key))


def seen_from(effect: Effect, possible: Possible) -> Effect:
    """What is left of an effect where some keys have the same value in every trial.

    Returns:
        An effect of what differs between trials: with no way in which it can be, the key never does anything;
        with a way that needs nothing, it always does.
    """
    ways = [_seen(way, possible) for way in effect.ways]
    return Effect(tuple(way for way in ways if way is not None))


def without(effect: Effect, keys: Collection[str]) -> Effect:
    """An effect but for what it needs of some keys."""
    return Effect(tuple(tuple(need for need in way if need.key not in keys) for way in effect.ways))


def never(effect: Effect) -> bool:
    """Whether a key does nothing in any trial; `effect` as `seen_from` gives it."""
    return not effect.ways


def always(effect: Effect) -> bool:
    """Whether a key does something in every trial; `effect` as `seen_from` gives it."""
    return () in effect.ways


def _seen(way: tuple[Needs, ...], possible: Possible) -> tuple[Needs, ...] | None:
    left = []
    for need in way:
        values = possible(need.key)
        met = None if values is None else [need.allows(value) for value in values]
        if met is not None and not any(met):
            return None
        if met is None or not all(met):
            left.append(need)
    return tuple(left)
