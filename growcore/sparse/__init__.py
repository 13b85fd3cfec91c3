"""Layers with dynamic sparse connections, and the pure functions that judge and choose them."""

from growcore.sparse.allocation import Allocation, allocate, random_mask
from growcore.sparse.connections import Progress, SparseConnections, SparseSettings
from growcore.sparse.export import bake, two_of_four
from growcore.sparse.layers import DSConv2d, DSLinear
from growcore.sparse.momentum import hold_pruned_at_zero
from growcore.sparse.regrowth import gradual_magnitude, hebbian_exchange, rigl, set_evolution
from growcore.sparse.schedule import Schedule
from growcore.sparse.selection import PRUNE_DIMS, PruneMask, rank_globally, rank_within_scopes
from growcore.sparse.strength import STRENGTHS

__all__ = [
    "PRUNE_DIMS",
    "STRENGTHS",
    "Allocation",
    "DSConv2d",
    "DSLinear",
    "Progress",
    "PruneMask",
    "Schedule",
    "SparseConnections",
    "SparseSettings",
    "allocate",
    "bake",
    "gradual_magnitude",
    "hebbian_exchange",
    "hold_pruned_at_zero",
    "random_mask",
    "rank_globally",
    "rank_within_scopes",
    "rigl",
    "set_evolution",
    "two_of_four",
]
