"""Which connections stay, restart or go: pure functions from strengths to a PruneMask.

A *scope* is a set of connections ranked together. Of its n connections the strongest K1 stay, the next
K2 - K1 restart with fresh weights, the rest are pruned:

    K1 = max(floor(k1 n + 1e-9), 1)    K2 = max(floor(k2 n + 1e-9), K1)

Equal strengths are ranked by index, the lower first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from growcore.config import PruningScope

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
    strengths: Tensor, k1: float, k2: float, prune_dims: Sequence[int] = (0, 1)
) -> PruneMask:
    """Share out a layer's connections, each scope on its own.

    Args:
        strengths: of any order, shaped like the weight.
        k1: fraction of a scope that stays.
        k2: fraction that is alive afterwards; the k2 - k1 between restart.
        prune_dims: dimensions of which every index is a scope of its own: (0, 1) filter, (0,) output
            channel, () layer.

    Raises:
        ValueError: fractions or dimensions out of range, strengths that are not all finite.
    """
    num_kept, num_alive = scope_counts(scope_size(strengths.shape, prune_dims), k1, k2)
    check_finite(strengths)
    scope_dims = [d % strengths.dim() for d in prune_dims]
    order = [*scope_dims, *(d for d in range(strengths.dim()) if d not in scope_dims)]
    permuted = strengths.permute(order)
    num_scopes = math.prod(strengths.shape[d] for d in scope_dims)
    ranks = _ranks(permuted.reshape(num_scopes, -1)).reshape(permuted.shape)
    back = [order.index(d) for d in range(strengths.dim())]
    return _split(ranks.permute(back).contiguous(), num_kept, num_alive)


def rank_globally(strengths: Sequence[Tensor], k1: float, k2: float) -> list[PruneMask]:
    """Share out the connections of several layers, ranked all together.

    Args:
        strengths: one tensor for each layer; their scales are compared as they are.
        k1: fraction of all connections that stays.
        k2: fraction that is alive afterwards.

    Returns:
        One mask for each layer; a weak layer may lose every connection.

    Raises:
        ValueError: fractions out of range, no layer, strengths that are not all finite.
    """
    if not strengths:
        raise ValueError("a global ranking needs the strengths of at least one layer; got none.")
    for tensor in strengths:
        check_finite(tensor)
    flat = torch.cat([tensor.reshape(-1) for tensor in strengths])
    num_kept, num_alive = scope_counts(flat.numel(), k1, k2)
    ranks = _ranks(flat.unsqueeze(0)).squeeze(0)
    parts = torch.split(ranks, [tensor.numel() for tensor in strengths])
    return [
        _split(part.reshape(tensor.shape), num_kept, num_alive)
        for part, tensor in zip(parts, strengths, strict=True)
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


def _ranks(strengths: Tensor) -> Tensor:
    # A stable sort keeps equal strengths in the order of their index.
    order = strengths.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(strengths.shape[1], device=strengths.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _split(ranks: Tensor, num_kept: int, num_alive: int) -> PruneMask:
    keep, prune = ranks < num_kept, ranks >= num_alive
    return PruneMask(keep=keep, restart=~(keep | prune), prune=prune)
