"""Replacing a layer's parameters by larger ones; old entries come first."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class ConnectionState(Protocol):
    """A layer that keeps a value per connection, such as a mask."""

    def connections_grown(self) -> None:
        """Called after the weight was replaced by a larger one: extend what is kept per connection."""


def replace_parameters(layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    """Give the layer new parameters and the sizes they imply; a bias that is its own already stays."""
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    if bias is not None and bias is not layer.bias:
        assert layer.bias is not None
        layer.bias = nn.Parameter(bias, requires_grad=layer.bias.requires_grad)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    else:
        layer.out_channels, layer.in_channels = weight.shape[:2]
    if isinstance(layer, ConnectionState):
        layer.connections_grown()
