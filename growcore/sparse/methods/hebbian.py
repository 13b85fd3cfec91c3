"""Hebbian pruning: what fires together stays. Connections are ranked by a strength the layers measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from growcore.sparse.methods import ranked
from growcore.sparse.methods.method import STRENGTH, Decision, PruneObservation, PruningMethod

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
    """The strongest k1 of a scope stay, those up to k2 restart, the rest go."""
    return ranked.rank(observations, config, progress, config.strength)


METHOD = PruningMethod(
    meaning="the strongest `k1` of a scope stay, those up to `k2` restart, the rest go",
    keys=STRENGTH | ranked.KEYS,
    strength=lambda config: config.strength.value,
    decide=decide,
)
