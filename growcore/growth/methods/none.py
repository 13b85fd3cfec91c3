"""No growth: every layer keeps its width."""

from __future__ import annotations

from growcore.growth.methods.method import GrowthMethod

METHOD = GrowthMethod(meaning="every layer keeps its width", keys={})
