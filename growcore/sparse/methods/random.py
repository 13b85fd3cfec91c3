"""The control of hebbian pruning: as many connections stay, restart and go, but which is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from growcore.sparse.methods import ranked
from growcore.sparse.methods.method import Decision, PruneObservation, PruningMethod

if TYPE_CHECKING:
    import torch

    from growcore.config import PruningConfig
    from growcore.config.timing import Progress


def decide(
    observations: Sequence[PruneObservation],
    config: PruningConfig,
    progress: Progress,
    generator: torch.Generator | None,
) -> Decision:
    """As hebbian, with the random strengths that were observed."""
    return ranked.rank(observations, config, progress, "random")


METHOD = PruningMethod(
    meaning="as hebbian, with random strengths",
    keys=ranked.KEYS,
    strength=lambda config: "random",
    decide=decide,
)
