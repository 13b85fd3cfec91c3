"""Convolutions that grow; where their kernels read new channels is their geometry's business."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from growcore.growth.checking import check_kind
from growcore.growth.geometry.conv import ConvGeometry, FullGeometry, RestrictedGeometry
from growcore.growth.layers import new_conv, set_padding
from growcore.growth.module import GrowingModule
from growcore.growth.statistics.patches import output_size


class Conv2dGrowingModule(GrowingModule):
    """A growing nn.Conv2d; what new channels are solved for is left to its two kinds.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side or sides of the kernel.
        stride: step between positions.
        padding: number, pair or 'same' / 'valid'.
        dilation: step between taps.
        input_size: height and width of the input map, where it is known beforehand.
        use_bias: whether the layer has a bias.
        layer: an nn.Conv2d (or subclass) of this geometry to use instead of a new one.

    The other arguments are those of GrowingModule; target and initial widths count input channels.
    """

    geometry = ConvGeometry()
    layer: nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        input_size: tuple[int, int] | None = None,
        use_bias: bool = True,
        post_layer_function: nn.Module | None = None,
        extended_post_layer_function: nn.Module | None = None,
        previous_module: nn.Module | None = None,
        next_module: nn.Module | None = None,
        allow_growing: bool = False,
        device: torch.device | None = None,
        name: str | None = None,
        target_in_channels: int | None = None,
        initial_in_channels: int | None = None,
        layer: nn.Conv2d | None = None,
    ) -> None:
        if layer is not None:
            check_kind(layer, nn.Conv2d, name if name is not None else type(self).__name__)
        plain = new_conv(
            (in_channels, out_channels), kernel_size, stride, padding, dilation, use_bias,
            device if layer is None else "meta",
        )  # fmt: skip
        if layer is not None and _sizes(layer) != _sizes(plain):
            raise ValueError(f"layer must have the geometry of {plain}; got {layer}.")
        super().__init__(
            plain if layer is None else layer,
            post_layer_function=post_layer_function,
            extended_post_layer_function=extended_post_layer_function,
            allow_growing=allow_growing,
            previous_module=previous_module,
            next_module=next_module,
            device=device,
            name=name,
            target_in_neurons=target_in_channels,
            initial_in_neurons=initial_in_channels,
        )
        self.input_size = input_size

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.layer.in_channels

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.layer.out_channels

    @property
    def in_features(self) -> int:
        """Inputs of one output position: channels times taps."""
        return self.in_fan

    @property
    def out_features(self) -> int:
        """Channels of the output."""
        return self.layer.out_channels

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return self.layer.kernel_size[0], self.layer.kernel_size[1]

    @property
    def stride(self) -> tuple[int, int]:
        """Step between positions."""
        return self.layer.stride[0], self.layer.stride[1]

    @property
    def dilation(self) -> tuple[int, int]:
        """Step between taps."""
        return self.layer.dilation[0], self.layer.dilation[1]

    @property
    def padding(self) -> tuple[int, int] | str:
        """Padding of the layer."""
        padding = self.layer.padding
        return padding if isinstance(padding, str) else (padding[0], padding[1])

    @padding.setter
    def padding(self, padding: int | tuple[int, int] | str) -> None:
        set_padding(self.layer, padding)

    def update_input_size(
        self,
        input_size: tuple[int, ...] | None = None,
        compute_from_previous: bool = False,
        force_update: bool = True,
    ) -> tuple[int, int] | None:
        """Set and return height and width of the input map.

        Args:
            input_size: the size; None: from the previous module or the stored input.
            compute_from_previous: take it from the previous module's input size.
            force_update: replace a size that is known already.

        Returns:
            the size, or None where nothing is known.
        """
        if self.input_size is not None and not force_update:
            return self.input_size
        if input_size is not None:
            self.input_size = (input_size[0], input_size[1])
        elif compute_from_previous and isinstance(self.previous_module, Conv2dGrowingModule):
            before = self.previous_module.update_input_size()
            if before is not None:
                self.input_size = output_size(self.previous_module.layer, before)
        elif self.gathered.stored_input is not None:
            self.input_size = _size(self.gathered.stored_input)
        return self.input_size


class RestrictedConv2dGrowingModule(Conv2dGrowingModule):
    """A convolution that reads new channels by the centre tap of its kernel."""

    geometry = RestrictedGeometry()


class FullConv2dGrowingModule(Conv2dGrowingModule):
    """A convolution that reads new channels by every tap of its kernel."""

    geometry = FullGeometry()


def _size(x_NCHW: Tensor) -> tuple[int, int]:
    return x_NCHW.shape[2], x_NCHW.shape[3]


def _sizes(layer: nn.Conv2d) -> tuple[object, ...]:
    window = (tuple(layer.kernel_size), tuple(layer.stride), tuple(layer.dilation))
    return (layer.in_channels, layer.out_channels, window, layer.padding, layer.bias is not None)
