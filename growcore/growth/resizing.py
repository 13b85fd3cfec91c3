"""The part of a growing module that changes its layer: steps, and larger parameters, old entries first."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from growcore.growth.extending import ExtendingModule


@runtime_checkable
class ConnectionState(Protocol):
    """A layer that keeps a value per connection, such as a mask."""

    def connections_grown(self) -> None:
        """Called after the weight was replaced by a larger one: extend what is kept per connection."""


@runtime_checkable
class MaskedConnections(Protocol):
    """A layer whose pruned connections act as zero whatever the weight holds."""

    mask: Tensor  # bool, shaped like the weight; False is pruned


def replace_parameters(layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    """Give the layer new parameters and the sizes they imply; a bias that is its own already stays."""
    layer.weight = nn.Parameter(weight.detach(), requires_grad=layer.weight.requires_grad)
    if bias is not None and bias is not layer.bias:
        assert layer.bias is not None
        layer.bias = nn.Parameter(bias.detach(), requires_grad=layer.bias.requires_grad)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    else:
        layer.out_channels, layer.in_channels = weight.shape[:2]
    if isinstance(layer, ConnectionState):
        layer.connections_grown()


class ResizableModule(ExtendingModule):
    """An extending module whose layer takes steps and gains inputs and outputs."""

    @property
    def in_neurons(self) -> int:
        """Number of input neurons (features or channels)."""
        return self.weight.shape[1]

    @property
    def out_neurons(self) -> int:
        """Number of output neurons (features or channels)."""
        return self.weight.shape[0]

    @torch.no_grad()
    def parameter_step(self, delta_weights: Tensor, delta_biases: Tensor | None = None) -> None:
        """Add to the weight, and to the bias where a delta for it is given."""
        if delta_weights.shape != self.weight.shape:
            raise ValueError(
                f"delta_weights must have the shape of the weight of {self.name}, "
                f"{tuple(self.weight.shape)}; got {tuple(delta_weights.shape)}."
            )
        if delta_biases is not None and self.bias is None:
            raise ValueError(f"{self.name} has no bias to step. Pass delta_biases=None.")
        self.weight.add_(delta_weights)
        if delta_biases is not None and self.bias is not None:
            self.bias.add_(delta_biases)

    def layer_in_extension(self, weight: Tensor) -> None:
        """Append inputs to the layer; weight is (out, k) or (out, k, kh, kw)."""
        expected = (self.out_neurons, weight.shape[1], *self.weight.shape[2:])
        if tuple(weight.shape) != expected:
            raise ValueError(
                f"An input extension of {self.name} must be {expected}; got {tuple(weight.shape)}."
            )
        replace_parameters(
            self.layer, torch.cat([self.weight.detach(), weight.detach().to(self.weight)], dim=1), self.bias
        )

    def layer_out_extension(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Append outputs to the layer; weight is (k, in) or (k, in, kh, kw), bias (k,), zero if left out."""
        if weight.shape[1:] != self.weight.shape[1:]:
            raise ValueError(
                f"An output extension of {self.name} must be (k, {', '.join(map(str, self.weight.shape[1:]))}"
                f"); got {tuple(weight.shape)}."
            )
        if bias is not None and self.bias is None:
            raise ValueError(f"{self.name} has no bias to extend. Pass bias=None.")
        longer_bias = None
        if self.bias is not None:
            new = self.bias.new_zeros(weight.shape[0]) if bias is None else bias.detach().to(self.bias)
            longer_bias = torch.cat([self.bias.detach(), new])
        replace_parameters(
            self.layer, torch.cat([self.weight.detach(), weight.detach().to(self.weight)]), longer_bias
        )

    def add_parameters(
        self,
        matrix_extension: Tensor | None = None,
        bias_extension: Tensor | None = None,
        added_in_features: int = 0,
        added_out_features: int = 0,
    ) -> None:
        """Append inputs or outputs to the layer alone; the neighbours are the caller's business.

        Args:
            matrix_extension: the new weights; None: zeros.
            bias_extension: the new biases of added outputs; None: zeros.
            added_in_features: number of new inputs.
            added_out_features: number of new outputs; exactly one of the two is above 0.
        """
        if (added_in_features > 0) == (added_out_features > 0):
            raise ValueError(
                f"Add either inputs or outputs; got added_in_features={added_in_features}, "
                f"added_out_features={added_out_features}."
            )
        kernel = self.weight.shape[2:]
        if added_in_features > 0:
            shape = (self.out_neurons, added_in_features, *kernel)
        else:
            shape = (added_out_features, self.in_neurons, *kernel)
        weight = self.weight.new_zeros(shape) if matrix_extension is None else matrix_extension
        if tuple(weight.shape) != shape:
            raise ValueError(f"matrix_extension must be {shape}; got {tuple(weight.shape)}.")
        if added_in_features > 0:
            self.layer_in_extension(weight)
        else:
            self.layer_out_extension(weight, bias_extension)
