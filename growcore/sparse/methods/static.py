"""A fixed sparse network: random connections from the start, never changed. The control for all that move."""

from __future__ import annotations

from growcore.sparse.methods.method import DENSITY, PruningMethod

METHOD = PruningMethod(
    meaning="random connections at `density` from the start, never changed", keys=DENSITY, starts_sparse=True
)
