"""One to one by Hebbian strength: the weakest connections go, as many of the strongest inactive ones come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from growcore import sparse
from growcore.config.acting import acting
from growcore.sparse.methods import allotment
from growcore.sparse.methods.method import (
    DENSITY,
    STRENGTH,
    TIMES,
    Decision,
    PruneObservation,
    PruningMethod,
)
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
    masks = [sparse.hebbian_exchange(o.strengths, o.alive, fraction, o.units) for o in observations]
    return Decision(masks, f"weakest {fraction:.3g} exchanged for the inactive of largest {config.strength}")


def allot(
    observations: Sequence[PruneObservation],
    config: PruningConfig,
    progress: Progress,
    generator: torch.Generator | None,
) -> Decision:
    """The weakest go; those of new neurons, whose strength was never measured, by their weights."""
    strengths = [o.strengths for o in observations]
    drop_by = [
        o.strengths if o.grown is None else o.strengths.where(~o.grown, size)
        for o, size in zip(observations, allotment.magnitudes(observations), strict=True)
    ]
    return allotment.share_out(observations, config, drop_by, strengths, generator)


METHOD = PruningMethod(
    meaning="the weakest go, as many of the strongest inactive ones come",
    keys=DENSITY | STRENGTH | acting("fraction", "schedule") | TIMES,
    strength=lambda config: config.strength.value,
    starts_sparse=True,
    decide=decide,
    allot=allot,
)
