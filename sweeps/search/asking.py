"""What a study asks of others: a space that draws, and what it says where nothing new is left in it."""

from __future__ import annotations

from typing import Any, Protocol


class Space(Protocol):
    """What a study needs of a search space (see `sweeps.space.search_space.SearchSpace`)."""

    def suggest(self, trial: Any) -> dict[str, Any]:
        """Parameters drawn through `trial.suggest_float`, `suggest_int` and `suggest_categorical`."""

    def overrides(self, params: dict[str, Any]) -> list[str]:
        """The same parameters as command-line overrides."""

    def apply(self, params: dict[str, Any]) -> Any:
        """The TrialConfig these parameters give; raises ValueError where they contradict each other."""


class Exhausted(Exception):
    """The space seems to hold no configuration that was not run."""
