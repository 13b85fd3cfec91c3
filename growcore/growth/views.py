"""Real layers over the tensors of a record, so that what is held as a value can be run, read and changed.

A view shares memory with its record: a change in place is seen by both. It lives as long as the record; a
copy or a saved module makes its own when asked.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from growcore.growth.layers import Layer, layer_like


class LayerViews:
    """The views that one module has handed out."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Tensor, Layer]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return LayerViews, ()  # views would lose their memory's tie to the record

    def of(self, name: str, layer: Layer, weight: Tensor | None, bias: Tensor | None) -> Layer | None:
        """The view of that name over these tensors, a layer like `layer`; None where there is no weight."""
        if weight is None:
            return None
        made = self._made.get(name)
        if made is None or made[0] is not weight:
            made = self._made[name] = (weight, layer_like(layer, weight, bias))
        return made[1]

    def adopt(self, name: str, layer: Layer | None) -> tuple[Tensor | None, Tensor | None]:
        """Make a layer that was set from outside the view of that name; returns the tensors to record."""
        if layer is None:
            return None, None
        weight = layer.weight.detach()
        self._made[name] = (weight, layer)
        return weight, None if layer.bias is None else layer.bias.detach()
