"""Layers with dynamic sparse connections, and the pure functions that judge and choose them."""

from growcore.sparse.connections import Progress, SparseConnections, SparseSettings
from growcore.sparse.layers import DSConv2d, DSLinear
from growcore.sparse.selection import PRUNE_DIMS, PruneMask, rank_globally, rank_within_scopes
from growcore.sparse.strength import STRENGTHS

__all__ = [
    "PRUNE_DIMS",
    "STRENGTHS",
    "DSConv2d",
    "DSLinear",
    "Progress",
    "PruneMask",
    "SparseConnections",
    "SparseSettings",
    "rank_globally",
    "rank_within_scopes",
]
