"""Layers with dynamic sparse connections, and the pure functions that judge and choose them."""

from .allocation import Allocation as Allocation
from .allocation import allocate as allocate
from .allocation import random_mask as random_mask
from .connections import Progression as Progression
from .connections import SparseConnections as SparseConnections
from .connections import SparseSettings as SparseSettings
from .export import bake as bake
from .export import two_of_four as two_of_four
from .floor import bare_units as bare_units
from .layers import DSConv2d as DSConv2d
from .layers import DSLinear as DSLinear
from .momentum import hold_pruned_at_zero as hold_pruned_at_zero
from .regrowth import gradual_magnitude as gradual_magnitude
from .regrowth import hebbian_exchange as hebbian_exchange
from .regrowth import rigl as rigl
from .regrowth import set_evolution as set_evolution
from .schedule import Schedule as Schedule
from .selection import PRUNE_DIMS as PRUNE_DIMS
from .selection import PruneMask as PruneMask
from .selection import rank_globally as rank_globally
from .selection import rank_within_scopes as rank_within_scopes
from .strength import STRENGTHS as STRENGTHS
from .units import Units as Units
