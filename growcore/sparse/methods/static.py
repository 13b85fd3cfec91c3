"""A fixed sparse network: random connections from the start, never moved. The control for all that move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from growcore.sparse.methods import allotment
from growcore.sparse.methods.method import DENSITY, Decision, PruneObservation, PruningMethod

if TYPE_CHECKING:
    import torch

    from growcore.config import PruningConfig
    from growcore.config.timing import Progress


def allot(
    observations: Sequence[PruneObservation],
    config: PruningConfig,
    progress: Progress,
    generator: torch.Generator | None,
) -> Decision:
    """Random connections of new neurons stay, as many as the density has room for beside the old ones."""
    drawn = allotment.random_strengths(observations, generator)
    return allotment.share_out(observations, config, drawn, drawn, generator)


METHOD = PruningMethod(
    meaning="random connections at `density` from the start; they change only where neurons come or go",
    keys=DENSITY,
    starts_sparse=True,
    allot=allot,
)
