"""What a search is for: one objective or several, and limits that a trial must keep."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from sweeps.config.errors import ConfigError
from sweeps.config.settings import SearchConfig

_LIMIT = re.compile(r"(<=|>=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")


@dataclass(frozen=True, slots=True)
class Constraint:
    """`metric <= limit` or `metric >= limit` of a trial's last report."""

    metric: str
    operator: str
    limit: float

    @classmethod
    def read(cls, metric: str, text: str) -> Constraint:
        """Read `<= 100000`; ConfigError where it is no limit."""
        match = _LIMIT.fullmatch(text.strip())
        if match is None:
            raise ConfigError(
                f"search.constraints of {metric} must be '<= NUMBER' or '>= NUMBER'; got {text!r}. "
                "For example {model/parameters: '<= 100000'}."
            )
        return cls(metric, match[1], float(match[2]))

    def violation(self, value: float) -> float:
        """By how much a value breaks the limit, as a fraction of it; zero or negative where it is kept.

        Fractions make constraints of different units comparable: samplers add them up.
        """
        excess = value - self.limit if self.operator == "<=" else self.limit - value
        return excess / abs(self.limit) if self.limit else excess

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {self.limit:g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Goals:
    """Objectives in the order of their importance, and constraints."""

    objectives: Mapping[str, str] = field(default_factory=lambda: {"val/accuracy": "maximize"})
    constraints: tuple[Constraint, ...] = ()

    @classmethod
    def of(cls, search: SearchConfig) -> Self:
        """What a configuration asks for; ConfigError where a constraint cannot be read."""
        further = {key: direction.value for key, direction in search.further_objectives.items()}
        return cls(
            objectives={search.metric: search.direction.value, **further},
            constraints=tuple(Constraint.read(key, text) for key, text in search.constraints.items()),
        )

    @property
    def metric(self) -> str:
        """The first objective: it ranks where one must, and schedulers stop by it."""
        return next(iter(self.objectives))

    def missing(self, metrics: Mapping[str, float]) -> str | None:
        """Why these metrics cannot be judged, or None where all that is needed is there and finite."""
        for key in [*self.objectives, *(c.metric for c in self.constraints)]:
            if key not in metrics:
                return f"{key} is not reported; reported: {', '.join(sorted(metrics))}"
            if not math.isfinite(metrics[key]):
                return f"{key} is {metrics[key]}"
        return None

    def violations(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Constraint -> its violation, of those whose metric is known and finite."""
        known = [c for c in self.constraints if math.isfinite(metrics.get(c.metric, math.nan))]
        return {str(c): c.violation(metrics[c.metric]) for c in known}

    def front(self, values: Sequence[Sequence[float]]) -> list[int]:
        """Which of these trials no other beats, best first by the first objective.

        Beaten is who is nowhere better and somewhere worse. Every trial has a value of each objective.
        """
        signs = [-1.0 if direction == "maximize" else 1.0 for direction in self.objectives.values()]
        losses = [tuple(s * v for s, v in zip(signs, each, strict=True)) for each in values]
        found: list[int] = []
        # Whoever beats a trial comes before it in this order.
        for index in sorted(range(len(losses)), key=losses.__getitem__):
            if not any(_beats(losses[other], losses[index]) for other in found):
                found.append(index)
        return found


def _beats(a: Sequence[float], b: Sequence[float]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
