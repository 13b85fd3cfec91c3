"""Changing the layer of a growing module: a step, and larger parameters, old entries first.

Shapes: a weight is (out, in) or (out, in, kh, kw), a bias (out,).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from growcore.growth.module import GrowingModule


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


@torch.no_grad()
def parameter_step(module: GrowingModule, delta_weights: Tensor, delta_biases: Tensor | None = None) -> None:
    """Add to the weight, and to the bias where a delta for it is given.

    Raises:
        ValueError: a step of another shape, or one for a bias that is not there.
    """
    if delta_weights.shape != module.weight.shape:
        raise ValueError(
            f"delta_weights must have the shape of the weight of {module.name}, "
            f"{tuple(module.weight.shape)}; got {tuple(delta_weights.shape)}."
        )
    if delta_biases is not None and module.bias is None:
        raise ValueError(f"{module.name} has no bias to step. Pass delta_biases=None.")
    module.weight.add_(delta_weights)
    if delta_biases is not None and module.bias is not None:
        module.bias.add_(delta_biases)


def layer_in_extension(module: GrowingModule, weight: Tensor) -> None:
    """Append inputs to the layer; weight is (out, k) or (out, k, kh, kw)."""
    old = module.weight.detach()
    expected = (old.shape[0], weight.shape[1], *old.shape[2:])
    if tuple(weight.shape) != expected:
        raise ValueError(
            f"An input extension of {module.name} must be {expected}; got {tuple(weight.shape)}."
        )
    replace_parameters(module.layer, torch.cat([old, weight.detach().to(old)], dim=1), module.bias)


def layer_out_extension(module: GrowingModule, weight: Tensor, bias: Tensor | None = None) -> None:
    """Append outputs to the layer; weight is (k, in) or (k, in, kh, kw), bias (k,), zero if left out."""
    old = module.weight.detach()
    if weight.shape[1:] != old.shape[1:]:
        raise ValueError(
            f"An output extension of {module.name} must be (k, {', '.join(map(str, old.shape[1:]))}"
            f"); got {tuple(weight.shape)}."
        )
    if bias is not None and module.bias is None:
        raise ValueError(f"{module.name} has no bias to extend. Pass bias=None.")
    longer_bias = None
    if module.bias is not None:
        new = module.bias.new_zeros(weight.shape[0]) if bias is None else bias.detach().to(module.bias)
        longer_bias = torch.cat([module.bias.detach(), new])
    replace_parameters(module.layer, torch.cat([old, weight.detach().to(old)]), longer_bias)


def add_parameters(
    module: GrowingModule,
    matrix_extension: Tensor | None = None,
    bias_extension: Tensor | None = None,
    added_in_features: int = 0,
    added_out_features: int = 0,
) -> None:
    """Append inputs or outputs to the layer alone; the neighbours are the caller's business.

    Args:
        module: whose layer grows.
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
    size = list(module.weight.shape)
    size[int(added_in_features > 0)] = added_in_features or added_out_features
    weight = module.weight.new_zeros(size) if matrix_extension is None else matrix_extension
    if list(weight.shape) != size:
        raise ValueError(f"matrix_extension must be {tuple(size)}; got {tuple(weight.shape)}.")
    if added_in_features > 0:
        layer_in_extension(module, weight)
    else:
        layer_out_extension(module, weight, bias_extension)
