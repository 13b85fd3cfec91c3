"""When a searched key is set, for people: what of its conditions differs between trials."""

from __future__ import annotations

from sweeps.space import effects
from sweeps.space.dimensions import Dimension
from sweeps.space.effects import SpaceEffects
from sweeps.space.possible import PossibleValues
from sweeps.space.references import Condition, HasEffect, HasElement


def in_words(dimension: Dimension, possible: PossibleValues, acting: SpaceEffects) -> str:
    """What must hold for a key to be set; empty where it always is."""
    never = [c for c in dimension.conditions if _never(c, possible)]
    if never:
        is_written = isinstance(never[0], Condition)
        name = never[0].keys[0] if is_written else ""
        why = f"{name} is {possible.shared(name)}" if is_written else acting.why_never(dimension.key)
        return f"never: {why}"
    part = dimension.key.partition(".")[0]
    written = [c for c in dimension.conditions if isinstance(c, Condition) and not _always(c, possible)]
    # `growth == tiny` already says what the method is.
    said = {part, f"{part}.method", f"{part}.name"} & {c.key for c in written}
    implied = [c.effect for c in dimension.conditions if isinstance(c, HasEffect)]
    if said:
        implied = [effects.without(effect, {f"{part}.method", f"{part}.name"}) for effect in implied]
    needed = [str(effect) for effect in implied if not effects.always(effect)]
    lists = [str(c) for c in dimension.conditions if isinstance(c, HasElement)]
    return " and ".join([*map(str, written), *needed, *lists])


def is_off(dimension: Dimension, possible: PossibleValues) -> bool:
    """Whether a key is set in no trial."""
    return any(_never(condition, possible) for condition in dimension.conditions)


def _never(condition: Condition | HasEffect | HasElement, possible: PossibleValues) -> bool:
    """Whether a condition can hold in no trial, as it names nothing that is searched and fails."""
    if isinstance(condition, HasEffect):
        return effects.never(condition.effect)
    if isinstance(condition, HasElement):
        return False  # such a key is refused
    return not possible.is_searched(condition.key) and not condition.holds(possible.shared)


def _always(condition: Condition, possible: PossibleValues) -> bool:
    return not possible.is_searched(condition.key) and condition.holds(possible.shared)
