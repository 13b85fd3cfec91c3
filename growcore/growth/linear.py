"""LinearGrowingModule: fully connected layers that grow."""

from __future__ import annotations

import torch
from torch import nn

from growcore.growth.checking import check_kind
from growcore.growth.geometry.linear import LinearGeometry
from growcore.growth.layers import new_linear
from growcore.growth.module import GrowingModule


class LinearGrowingModule(GrowingModule):
    """A growing nn.Linear; positions of a sequence (N, T, features) are summed, samples are counted.

    Args:
        in_features: size of each input.
        out_features: size of each output.
        use_bias: whether the layer has a bias.
        layer: an nn.Linear (or subclass) of these sizes to use instead of a new one.

    The other arguments are those of GrowingModule; target and initial widths count input features.
    """

    geometry = LinearGeometry()
    layer: nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        use_bias: bool = True,
        post_layer_function: nn.Module | None = None,
        extended_post_layer_function: nn.Module | None = None,
        previous_module: nn.Module | None = None,
        next_module: nn.Module | None = None,
        allow_growing: bool = False,
        device: torch.device | None = None,
        name: str | None = None,
        target_in_features: int | None = None,
        initial_in_features: int | None = None,
        layer: nn.Linear | None = None,
    ) -> None:
        if layer is not None:
            check_kind(layer, nn.Linear, name if name is not None else type(self).__name__)
        else:
            layer = new_linear(in_features, out_features, use_bias, device)
        expected = (in_features, out_features, use_bias)
        if (layer.in_features, layer.out_features, layer.bias is not None) != expected:
            raise ValueError(f"layer must have (in, out, bias) = {expected}; got {layer}.")
        super().__init__(
            layer,
            post_layer_function=post_layer_function,
            extended_post_layer_function=extended_post_layer_function,
            allow_growing=allow_growing,
            previous_module=previous_module,
            next_module=next_module,
            device=device,
            name=name,
            target_in_neurons=target_in_features,
            initial_in_neurons=initial_in_features,
        )

    @property
    def in_features(self) -> int:
        """Size of each input."""
        return self.layer.in_features

    @property
    def out_features(self) -> int:
        """Size of each output."""
        return self.layer.out_features

    def update_input_size(
        self,
        input_size: tuple[int, ...] | None = None,
        compute_from_previous: bool = False,
        force_update: bool = True,
    ) -> tuple[int, ...] | None:
        """(in_features,): a linear layer fixes its input size."""
        return (self.in_features,)
