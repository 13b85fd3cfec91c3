"""When a training has stopped getting better: a count of reports, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from growcore.config import TrainingConfig


@dataclass(slots=True)
class Plateau:
    """Reports in a row without a better validation accuracy; an edit begins a new count.

    The network after an edit is another one: the first report after it is what later ones are compared with.
    """

    config: TrainingConfig
    best: float | None = None  # accuracy that is to be exceeded by min_improvement; None: no report yet
    num_reports: int = 0  # since that one

    def add(self, accuracy: float, edited: bool) -> None:
        """Count a report.

        Args:
            accuracy: on validation images.
            edited: whether anything grew or was pruned since the report before.
        """
        if edited or self.best is None or accuracy > self.best + self.config.min_improvement:
            self.best, self.num_reports = accuracy, 0
        else:
            self.num_reports += 1

    @property
    def reached(self) -> bool:
        """Whether training ends here; never where the patience is 0."""
        return 0 < self.config.patience <= self.num_reports

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"best": self.best, "num_reports": self.num_reports}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.best, self.num_reports = state["best"], state["num_reports"]
