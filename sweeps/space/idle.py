"""Keys that do nothing in the trials of a sweep: refused where they were asked for, else told."""

from __future__ import annotations

from sweeps.config.errors import ConfigError
from sweeps.config.settings import SweepConfig
from sweeps.space.search_space import SearchSpace


def check(config: SweepConfig, space: SearchSpace) -> list[str]:
    """What people should know of keys that do something in some trials only.

    Raises:
        ConfigError: a key that was typed or searched for on the command line does nothing in any trial.
    """
    searched = {d.key for d in space.dimensions}
    notes = []
    for word in config.searches:
        key = word.partition("=")[0]
        if space.effects.is_idle(key):
            raise ConfigError(f"--search {key} has no effect: {_why(space, key)} Leave it out.")
    for word in config.overrides:
        key = word.partition("=")[0]
        if key in searched or (effect := space.effects.of(key)) is None:
            continue
        if space.effects.is_idle(key):
            raise ConfigError(f"{word} has no effect: {_why(space, key)} Leave it out.")
        notes.append(f"{word} has an effect only where {effect}")
    return notes


def _why(space: SearchSpace, key: str) -> str:
    return f"it needs {space.effects.needs(key)}, and {space.effects.why_never(key)}."
