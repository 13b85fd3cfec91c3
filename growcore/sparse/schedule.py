"""How a fraction moves over training: constant, linear, cubic or cosine between a start and a stop.

Cubic is gradual pruning's: [Zhu2017] To prune, or not to prune, arXiv:1710.01878. Cosine is the drop
fraction's of [Evci2020] Rigging the Lottery, ICML 2020, arXiv:1911.11134.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from growcore.config import suggest_name

SHAPES = ("constant", "linear", "cubic", "cosine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A value over time: `initial` up to `start`, `final` from `stop` on, a curve between.

    `constant` holds `initial` until `stop`. The unit of time is the caller's: steps or epochs.
    """

    shape: str  # one of SHAPES
    initial: float
    final: float
    start: float
    stop: float

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"Unknown schedule {self.shape!r}. {suggest_name(self.shape, SHAPES)}")
        if not self.start <= self.stop:
            raise ValueError(
                f"a schedule must not stop before it starts; got start={self.start}, stop={self.stop}. "
                f"For a jump set both to the same time."
            )

    def __call__(self, time: float) -> float:
        """The value at a time."""
        if time >= self.stop:
            return self.final
        if time <= self.start or self.shape == "constant":
            return self.initial
        left = 1 - (time - self.start) / (self.stop - self.start)
        share = {"linear": left, "cubic": left**3, "cosine": (1 - math.cos(math.pi * left)) / 2}[self.shape]
        return self.final + (self.initial - self.final) * share
