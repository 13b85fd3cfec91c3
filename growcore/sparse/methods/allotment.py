"""Sharing out connections anew when neurons came or went: what methods that keep a density have in common.

Whatever grows comes alive, so a network that grows would end up dense. After each growth every layer is
given its share of `density` again, by the allocation over the shapes as they are now:

- What lived before the growth stays, and with it what the network has learnt: grown connections are shown
  the door first. They are also the smaller ones, as a line search scaled them and nothing trained them, so
  judged beside the old ones they would all go and the growth would have been for nothing.
- The places that the allocation has added go to the strongest of the grown connections by the method's
  own criterion (random for static), equal ones by lot: a growth may leave one side of its neurons at 0.
- Every unit has a connection in and out, new ones too, as far as the layer has that many. If the places
  added are too few for that, or there are none, the weakest of the old connections make room, by the
  method's own criterion.
- A layer that is given more than it has alive (its neighbours grew, and `erk` gives it a larger share) gains
  connections as the method regrows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from growcore import sparse
from growcore.sparse.methods.method import Decision, PruneObservation

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from growcore.config import PruningConfig


def share_out(
    observations: Sequence[PruneObservation],
    config: PruningConfig,
    drop_by: Sequence[Tensor],
    grow_by: Sequence[Tensor],
    generator: torch.Generator | None,
    *,
    restart_at_zero: bool = False,
) -> Decision:
    """Every layer's share of `density`; what has too many loses some, what has too few gains some.

    Args:
        observations: all sparse layers, as they are after the growth.
        config: density and allocation.
        drop_by: strengths of each layer's connections; of those alive the lowest go.
        grow_by: strengths of each layer's connections; of those that are not, the highest come.
        generator: decides between equal ones.
        restart_at_zero: whether what comes starts at weight 0.
    """
    shares = sparse.allocate([o.weight.shape for o in observations], config.density, config.allocation.value)
    masks = [
        exactly(o, number, drop, grow, generator, restart_at_zero=restart_at_zero)
        for o, number, drop, grow in zip(observations, shares.num_alive, drop_by, grow_by, strict=True)
    ]
    return Decision(masks, f"back to density {shares.density:.3g} after neurons came or went,")


def exactly(
    seen: PruneObservation,
    number: int,
    drop_by: Tensor,
    grow_by: Tensor,
    generator: torch.Generator | None,
    *,
    restart_at_zero: bool = False,
) -> sparse.PruneMask:
    """A layer with exactly so many connections alive; arguments as `share_out`."""
    old = seen.alive if seen.grown is None else seen.alive & ~seen.grown
    # All that lived before are stronger than all that has grown.
    ranks = sparse.ranks_by_lot(drop_by, generator)
    keep = sparse.strongest(-ranks + old * ranks.numel(), seen.alive, number, seen.units)
    num_missing = number - int(keep.sum())
    restart = sparse.strongest(grow_by, ~seen.alive, num_missing, seen.units, beside=keep)
    return sparse.PruneMask(
        keep=keep, restart=restart, prune=~(keep | restart), restart_at_zero=restart_at_zero
    )


def random_strengths(
    observations: Sequence[PruneObservation], generator: torch.Generator | None
) -> list[Tensor]:
    """Drawn anew for every layer."""
    return [sparse.random(o.weight, generator) for o in observations]


def magnitudes(observations: Sequence[PruneObservation]) -> list[Tensor]:
    """Absolute weights of every layer."""
    return [sparse.magnitude(o.weight) for o in observations]
