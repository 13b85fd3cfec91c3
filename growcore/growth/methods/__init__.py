"""The growth methods, one file each; every table of them is built from these objects. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from growcore.growth.methods import gradmax, none, random, tiny, variance_transfer, zeros
from growcore.growth.methods.method import GrowthMethod

__all__ = ["GROWTH_METHODS", "GrowthMethod"]

GROWTH_METHODS: Mapping[str, GrowthMethod] = {
    "none": none.METHOD,
    "tiny": tiny.METHOD,
    "gradmax": gradmax.METHOD,
    "random": random.METHOD,
    "zeros": zeros.METHOD,
    "variance_transfer": variance_transfer.METHOD,
}
