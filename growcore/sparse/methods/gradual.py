"""Gradual magnitude pruning [Zhu2017]: the smallest weights go until `density` is reached, none returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from growcore import sparse
from growcore.config.acting import acting
from growcore.sparse.methods.method import DENSITY, TIMES, Decision, PruneObservation, PruningMethod
from growcore.sparse.methods.schedule import share_left

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
    """Each layer moves from dense to its share of `density`."""
    final = sparse.allocate([o.weight.shape for o in observations], config.density, config.allocation.value)
    left = share_left(config, progress)
    masks = [
        sparse.gradual_magnitude(o.weight, o.alive, density + (1 - density) * left, o.units)
        for o, density in zip(observations, final.densities, strict=True)
    ]
    rule = f"smallest weights pruned, {1 - left:.3g} of the way to density {final.density:.3g},"
    return Decision(masks, rule)


METHOD = PruningMethod(
    meaning="the smallest weights go until `density` is reached; none comes back",
    keys=DENSITY | acting("schedule") | TIMES,
    decide=decide,
)
