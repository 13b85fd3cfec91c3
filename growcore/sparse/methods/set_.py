"""SET [Mocanu2018]: the smallest weights go, as many connections come at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from growcore import sparse
from growcore.config.acting import acting
from growcore.sparse.methods import allotment
from growcore.sparse.methods.method import DENSITY, TIMES, Decision, PruneObservation, PruningMethod
from growcore.sparse.methods.schedule import exchanged_fraction

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
    """As many come as go, in each layer."""
    fraction = exchanged_fraction(config, progress)
    masks = [sparse.set_evolution(o.weight, o.alive, fraction, generator, o.units) for o in observations]
    return Decision(masks, f"smallest {fraction:.3g} exchanged for random connections")


def allot(
    observations: Sequence[PruneObservation],
    config: PruningConfig,
    progress: Progress,
    generator: torch.Generator | None,
) -> Decision:
    """The smallest weights of new neurons go; where a layer has too few connections, random ones come."""
    drawn = allotment.random_strengths(observations, generator)
    return allotment.share_out(observations, config, allotment.magnitudes(observations), drawn, generator)


METHOD = PruningMethod(
    meaning="the smallest weights go, as many come at random",
    keys=DENSITY | acting("fraction", "schedule") | TIMES,
    starts_sparse=True,
    decide=decide,
    allot=allot,
)
