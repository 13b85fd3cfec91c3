"""Which connections stay, restart or go: pure functions from strengths to a PruneMask.

A *scope* is a set of connections ranked together. Of its n connections the strongest K1 stay, the next
K2 - K1 restart with fresh weights, the rest are pruned:

    K1 = max(floor(k1 n + 1e-9), 1)    K2 = max(floor(k2 n + 1e-9), K1)

Equal strengths are ranked by index, the lower first. Where the strongest K2 would leave an output or an input
of the layer without any connection, the strongest that serves it takes the place of the weakest
(`growcore.sparse.floor`); the strongest K1 of those that live then stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from growcore.config import PruningScope
from growcore.sparse.floor import choose, choose_within, places_within, ranks_of
from growcore.sparse.units import EVERY_UNIT, Units

# Dimensions of the weight whose every combination of indices is a scope of its own; the scope that spans
# all layers has none and is ranked by `rank_globally`.
PRUNE_DIMS: Mapping[PruningScope, tuple[int, ...]] = {
    PruningScope.filter: (0, 1),
    PruningScope.channel: (0,),
    PruningScope.layer: (),
}


@dataclass(frozen=True, slots=True)
class PruneMask:
    """What becomes of every connection of a layer: three bool tensors that share them out."""

    keep: Tensor  # stay, with their weight if alive
    restart: Tensor  # are alive, with a weight drawn anew
    prune: Tensor  # become zero and stay zero
    restart_at_zero: bool = False  # new connections start from 0 instead of a drawn weight

    def __post_init__(self) -> None:
        masks = {"keep": self.keep, "restart": self.restart, "prune": self.prune}
        shapes = {name: tuple(mask.shape) for name, mask in masks.items()}
        if len(set(shapes.values())) > 1 or any(mask.dtype != torch.bool for mask in masks.values()):
            raise ValueError(
                f"keep, restart and prune are bool tensors of one shape; got {shapes} of "
                f"{[mask.dtype for mask in masks.values()]}. Give each the shape of the layer's weight."
            )
        num_shares = self.keep.int() + self.restart.int() + self.prune.int()
        if not bool((num_shares == 1).all()):
            raise ValueError(
                "every connection is in exactly one of keep, restart and prune; got some in none or several. "
                "Build prune as ~(keep | restart), with keep and restart disjoint."
            )

    @property
    def alive(self) -> Tensor:
        """The connections that live afterwards."""
        return self.keep | self.restart


def scope_counts(n: int, k1: float, k2: float) -> tuple[int, int]:
    """(K1, K2) of a scope of n connections.

    Raises:
        ValueError: unless 0 <= k1 <= k2 <= 1.
    """
    check_fractions(k1, k2)
    num_kept = max(math.floor(k1 * n + 1e-9), 1)
    return num_kept, max(math.floor(k2 * n + 1e-9), num_kept)


def rank_within_scopes(
    strengths: Tensor,
    k1: float,
    k2: float,
    prune_dims: Sequence[int] = (0, 1),
    units: Units = EVERY_UNIT,
) -> PruneMask:
    """Share out a layer's connections, each scope on its own.

    Args:
        strengths: of any order, shaped like the weight.
        k1: fraction of a scope that stays.
        k2: fraction that is alive afterwards; the k2 - k1 between restart.
        prune_dims: dimensions of which every index is a scope of its own: (0, 1) filter, (0,) output
            channel, () layer.
        units: what the connections join; each unit keeps one in all as far as K2 allows.

    Raises:
        ValueError: fractions or dimensions out of range, strengths that are not all finite.
    """
    num_kept, num_alive = scope_counts(scope_size(strengths.shape, prune_dims), k1, k2)
    check_finite(strengths)
    ranks, scopes = ranks_of(strengths), _scopes(strengths, prune_dims)
    if scopes is None:
        (alive,) = choose([ranks], [torch.ones_like(ranks, dtype=torch.bool)], num_alive, [units])
        return _split(ranks_of(_alive_first(ranks, alive)), num_kept, num_alive)
    alive = choose_within(ranks, scopes, num_alive, units)
    return _split(places_within(-_alive_first(ranks, alive), scopes), num_kept, num_alive)


def rank_globally(
    strengths: Sequence[Tensor], k1: float, k2: float, units: Sequence[Units] | None = None
) -> list[PruneMask]:
    """Share out the connections of several layers, ranked all together.

    Args:
        strengths: one tensor for each layer; their scales are compared as they are.
        k1: fraction of all connections that stays.
        k2: fraction that is alive afterwards.
        units: what the connections of each layer join; None: outputs and inputs of an ungrouped layer. Each
            unit of each layer keeps one, as far as there are that many.

    Returns:
        One mask for each layer.

    Raises:
        ValueError: fractions out of range, no layer, strengths that are not all finite.
    """
    if not strengths:
        raise ValueError("a global ranking needs the strengths of at least one layer; got none.")
    for tensor in strengths:
        check_finite(tensor)
    flat = torch.cat([tensor.reshape(-1) for tensor in strengths])
    num_kept, num_alive = scope_counts(flat.numel(), k1, k2)
    sizes = [tensor.numel() for tensor in strengths]
    ranks = ranks_of(flat)
    shaped = [part.reshape(t.shape) for part, t in zip(ranks.split(sizes), strengths, strict=True)]
    everything = [torch.ones_like(part, dtype=torch.bool) for part in shaped]
    alive = choose(shaped, everything, num_alive, units or [EVERY_UNIT] * len(sizes))
    places = ranks_of(_alive_first(ranks, torch.cat([mask.reshape(-1) for mask in alive])))
    return [
        _split(part.reshape(tensor.shape), num_kept, num_alive)
        for part, tensor in zip(places.split(sizes), strengths, strict=True)
    ]


def scope_size(shape: Sequence[int], prune_dims: Sequence[int]) -> int:
    """Connections in one scope.

    Raises:
        ValueError: a dimension that the weight has not, or named twice.
    """
    rank = len(shape)
    if any(not -rank <= d < rank for d in prune_dims) or len({d % rank for d in prune_dims}) < len(
        prune_dims
    ):
        raise ValueError(
            f"prune_dims names each dimension of the weight at most once; got "
            f"prune_dims={tuple(prune_dims)} for a weight of shape {tuple(shape)}. "
            "Use (0, 1) per filter, (0,) per output channel, () per layer."
        )
    scope_dims = {d % rank for d in prune_dims}
    return math.prod(size for d, size in enumerate(shape) if d not in scope_dims)


def check_fractions(k1: float, k2: float) -> None:
    """Raise ValueError unless 0 <= k1 <= k2 <= 1."""
    if not 0 <= k1 <= 1 or not 0 <= k2 <= 1:
        raise ValueError(
            f"k1 and k2 are fractions in [0, 1] of a scope's connections; got k1={k1}, k2={k2}. "
            "Divide a count by the size of the scope."
        )
    if k1 > k2:
        raise ValueError(
            f"k1 must not exceed k2: the strongest k1 stay, the next k2 - k1 restart; "
            f"got k1={k1}, k2={k2}. To restart none, set k2={k1}."
        )


def check_finite(strengths: Tensor) -> None:
    """Raise ValueError for strengths that are not all finite."""
    if not bool(torch.isfinite(strengths).all()):
        count = int((~torch.isfinite(strengths)).sum())
        raise ValueError(
            f"strengths must be finite to be ranked; got {count} of {strengths.numel()} that are not. "
            "The network has probably diverged: lower the learning rate."
        )


def _alive_first(ranks: Tensor, alive: Tensor) -> Tensor:
    """The ranks as strengths, those of the connections that live above all others."""
    return torch.where(alive, -ranks, -ranks - ranks.numel())


def _scopes(strengths: Tensor, prune_dims: Sequence[int]) -> Tensor | None:
    """Number of the scope of each connection; None where the layer is one."""
    dims = sorted(d % strengths.dim() for d in prune_dims)
    if not dims:
        return None
    sizes = [strengths.shape[d] for d in dims]
    shape = [size if d in dims else 1 for d, size in enumerate(strengths.shape)]
    numbers = torch.arange(math.prod(sizes), device=strengths.device).reshape(shape)
    return numbers.expand(strengths.shape)


def _split(ranks: Tensor, num_kept: int, num_alive: int) -> PruneMask:
    keep, prune = ranks < num_kept, ranks >= num_alive
    return PruneMask(keep=keep, restart=~(keep | prune), prune=prune)
