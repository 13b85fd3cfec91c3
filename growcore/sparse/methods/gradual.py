"""Gradual magnitude pruning [Zhu2017]: the smallest weights go until `density` is reached, none returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from growcore import sparse
from growcore.config.acting import acting
from growcore.sparse.methods import allotment
from growcore.sparse.methods.method import DENSITY, TIMES, Decision, PruneObservation, PruningMethod
from growcore.sparse.methods.schedule import last_edit, share_left

if TYPE_CHECKING:
    import torch

    from growcore.config import PruningConfig
    from growcore.config.timing import Progress
    from growcore.sparse import Allocation


def decide(
    observations: Sequence[PruneObservation],
    config: PruningConfig,
    progress: Progress,
    generator: torch.Generator | None,
) -> Decision:
    """Each layer moves from dense to its share of `density`."""
    final = sparse.allocate([o.weight.shape for o in observations], config.density, config.allocation.value)
    left = share_left(config, progress)
    numbers = _numbers(observations, final, left)
    masks = [
        sparse.gradual_magnitude(o.weight, o.alive, number / o.alive.numel(), o.units)
        for o, number in zip(observations, numbers, strict=True)
    ]
    rule = f"smallest weights pruned, {1 - left:.3g} of the way to density {final.density:.3g},"
    return Decision(masks, rule)


def allot(
    observations: Sequence[PruneObservation],
    config: PruningConfig,
    progress: Progress,
    generator: torch.Generator | None,
) -> Decision | None:
    """Back to the density of the last pruning: the smallest weights of new neurons go; none comes back."""
    pruned = last_edit(config, progress)
    if pruned is None:
        return None
    final = sparse.allocate([o.weight.shape for o in observations], config.density, config.allocation.value)
    left = share_left(config, pruned)
    masks = [
        allotment.exactly(o, number, size, size, generator)
        for o, number, size in zip(
            observations,
            _numbers(observations, final, left),
            allotment.magnitudes(observations),
            strict=True,
        )
    ]
    rule = f"{1 - left:.3g} of the way to density {final.density:.3g} again after neurons came or went,"
    return Decision(masks, rule)


def _numbers(observations: Sequence[PruneObservation], final: Allocation, left: float) -> list[int]:
    """Connections of each layer; none comes back, so what one layer lacks others keep beyond their share."""
    densities = [density + (1 - density) * left for density in final.densities]
    alive = [int(o.alive.sum()) for o in observations]
    wanted = [max(math.floor(d * n + 1e-9), 1) for d, n in zip(densities, final.sizes, strict=True)]
    numbers = [min(pair) for pair in zip(wanted, alive, strict=True)]
    spare = [a - n for a, n in zip(alive, numbers, strict=True)]
    missing = min(sum(wanted) - sum(numbers), sum(spare))
    for index, room in enumerate(spare):
        # Each layer in proportion to its room; rounded so that nothing is missing after the last.
        given = -(-missing * room // sum(spare[index:])) if room else 0
        numbers[index] += given
        missing -= given
    return numbers


METHOD = PruningMethod(
    meaning="the smallest weights go until `density` is reached; none comes back",
    keys=DENSITY | acting("schedule") | TIMES,
    decide=decide,
    allot=allot,
)
