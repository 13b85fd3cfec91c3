"""Real layers over the tensors of a record, so that what is held as a value can be run, read and changed.

A view shares memory with its record: a change in place is seen by both. It goes with the record; a copied or
loaded module makes its own when asked.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor

from growcore.growth.layers import Layer, layer_like


class LayerViews:
    """The views that one module has handed out, one of each name."""

    def __init__(self) -> None:
        self._views: dict[str, tuple[weakref.ref[Tensor], Layer]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return LayerViews, ()  # copied views would share no memory with the copied record

    def of(self, name: str, layer: Layer, weight: Tensor | None, bias: Tensor | None) -> Layer | None:
        """The view over these tensors, a layer like `layer`; None where there is no weight."""
        if weight is None:
            return None
        recorded, view = self._views.get(name, (None, None))
        if view is None or recorded is None or recorded() is not weight:
            view = self._keep(name, weight, layer_like(layer, weight, bias))
        return view

    def adopt(self, name: str, layer: Layer | None) -> tuple[Tensor | None, Tensor | None]:
        """Make a layer that was set from outside the view; returns the weight and bias to record."""
        if layer is None:
            return None, None
        weight = layer.weight.detach()
        self._keep(name, weight, layer)
        return weight, None if layer.bias is None else layer.bias.detach()

    def _keep(self, name: str, weight: Tensor, view: Layer) -> Layer:
        def forget(gone: weakref.ref[Tensor]) -> None:
            if name in self._views and self._views[name][0] is gone:
                del self._views[name]

        self._views[name] = weakref.ref(weight, forget), view
        return view
