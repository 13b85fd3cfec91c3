"""The pruning methods, one file each; every table of them is built from these objects. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from growcore.sparse.methods import gradual, hebbian, hebbian_exchange, none, random, rigl, set_, static
from growcore.sparse.methods.method import Decision, PruneObservation, PruningMethod

__all__ = ["PRUNING_METHODS", "Decision", "PruneObservation", "PruningMethod"]

PRUNING_METHODS: Mapping[str, PruningMethod] = {
    "none": none.METHOD,
    "hebbian": hebbian.METHOD,
    "hebbian_exchange": hebbian_exchange.METHOD,
    "set": set_.METHOD,
    "rigl": rigl.METHOD,
    "gradual": gradual.METHOD,
    "random": random.METHOD,
    "static": static.METHOD,
}
