"""No pruning: every connection stays, and no layer keeps track of them."""

from __future__ import annotations

from growcore.sparse.methods.method import PruningMethod

METHOD = PruningMethod(meaning="every connection stays", makes_sparse=False)
