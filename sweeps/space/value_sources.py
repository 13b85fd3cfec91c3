"""What suggests values for a trial: the shape Optuna's trials have, and three of our own without Optuna."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any, Protocol


class TrialLike(Protocol):
    """What suggests values; Optuna's Trial and FixedTrial are such."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


class Random:
    """A TrialLike that draws independently."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step is not None:
            return low + self._random.randint(0, round((high - low) / step)) * step
        if log:
            return min(max(math.exp(self._random.uniform(math.log(low), math.log(high))), low), high)
        return self._random.uniform(low, high)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if log:
            drawn = round(math.exp(self._random.uniform(math.log(low - 0.5), math.log(high + 0.5))))
            return min(max(drawn, low), high)
        return low + self._random.randint(0, (high - low) // step) * step

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._random.choice(choices)


class Corner:
    """A TrialLike at the ends of every range: the index counts through lows, highs and choices."""

    def __init__(self, index: int) -> None:
        self._index = index

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return high if self._index % 2 else low

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return high if self._index % 2 else low

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[(self._index // 2) % len(choices)]


class Given:
    """A TrialLike that gives recorded params back."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._params[name])

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._params[name])

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._params[name]
