"""The keys of a space: each with its distribution, in an order in which all that one refers to is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from growcore.config import elements
from sweeps.config.errors import ConfigError
from sweeps.config.settings import TRIAL_GROUPS
from sweeps.space.distributions import Distribution
from sweeps.space.references import Condition, HasEffect, HasElement


@dataclass(frozen=True, slots=True)
class Dimension:
    """One key of a space."""

    key: str
    distribution: Distribution
    # All must hold, else the key keeps the value all trials share.
    conditions: tuple[Condition | HasEffect | HasElement, ...]

    @property
    def is_group(self) -> bool:
        """Whether the key is a whole group, such as `growth`."""
        return self.key in TRIAL_GROUPS


def in_order(dimensions: Mapping[str, Dimension]) -> list[str]:
    """Keys as they are drawn: groups and referred keys first, else as written.

    Raises:
        ConfigError: keys refer to each other in a circle.
    """
    done: list[str] = []

    def visit(key: str, path: tuple[str, ...]) -> None:
        if key in path:
            circle = " -> ".join([*path[path.index(key) :], key])
            raise ConfigError(f"The space refers in a circle: {circle}. Let one of these bounds be a number.")
        if key in done or key not in dimensions:
            return
        for other in _needs(dimensions[key]):
            visit(other, (*path, key))
        done.append(key)

    for key in dimensions:
        visit(key, ())
    return done


def _needs(dimension: Dimension) -> list[str]:
    """Keys and groups that must have their values before this one is drawn."""
    referred = [*dimension.distribution.references, *(key for c in dimension.conditions for key in c.keys)]
    needed = [
        name
        for key in [dimension.key, *referred]
        for name in (key.partition(".")[0], elements.list_of(key), key)
    ]
    return [name for name in needed if name != dimension.key]
