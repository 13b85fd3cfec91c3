"""RigL [Evci2020]: the smallest weights go, as many connections come by the gradient they would get."""

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
    masks = [sparse.rigl(o.weight, o.alive, o.strengths, fraction, o.units) for o in observations]
    return Decision(masks, f"smallest {fraction:.3g} exchanged for those of largest gradient")


def allot(
    observations: Sequence[PruneObservation],
    config: PruningConfig,
    progress: Progress,
    generator: torch.Generator | None,
) -> Decision:
    """The smallest weights of new neurons go; where a layer has too few, those of largest gradient come."""
    gradients = [o.strengths for o in observations]
    return allotment.share_out(
        observations, config, allotment.magnitudes(observations), gradients, generator, restart_at_zero=True
    )


METHOD = PruningMethod(
    meaning="the smallest weights go, as many come by the gradient they would get",
    keys=DENSITY | acting("fraction", "schedule", "update_interval") | TIMES,
    strength=lambda config: "gradient",
    starts_sparse=True,
    decide=decide,
    allot=allot,
)
