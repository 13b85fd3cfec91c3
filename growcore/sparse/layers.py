"""Layers that judge each of their connections and prune, restart or keep it: DSConv2d and DSLinear.

They are torch's own layers with the mask and the strengths of `SparseConnections`.
"""

from __future__ import annotations

import warnings
from typing import Any, Self, TypeVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from growcore.sparse.connections import SparseConnections, SparseSettings, check_own_weight
from growcore.sparse.geometry import ConvGeometry, LinearGeometry


class DSConv2d(SparseConnections, nn.Conv2d):
    """A convolution that prunes and restarts its connections by their strength.

    Args as torch.nn.Conv2d, then the keyword settings of `SparseSettings`; scopes are filters
    (`prune_dims=(0, 1)`), k1=0.1 and k2=0.15 unless given.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        **settings: Unpack[SparseSettings],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        settings.setdefault("prune_dims", (0, 1))
        self._start_connections(**settings)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **settings: Unpack[SparseSettings]) -> Self:
        """A sparse layer with copies of a convolution's weights; draws no random numbers.

        Raises:
            ValueError: the weight is computed from other parameters (weight norm, spectral norm).
        """
        check_own_weight(conv)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # A layer that starts without neurons has nothing to draw, and torch says so.
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            layer = cls(
                conv.in_channels,
                conv.out_channels,
                conv.kernel_size,  # type: ignore[arg-type]
                conv.stride,  # type: ignore[arg-type]
                conv.padding,  # type: ignore[arg-type]
                conv.dilation,  # type: ignore[arg-type]
                conv.groups,
                conv.bias is not None,
                conv.padding_mode,
                **settings,
            )
        return _take_weights(layer, conv)

    @property
    def geometry(self) -> ConvGeometry:
        """Kernel, stride, padding, dilation and groups."""
        return ConvGeometry.of(self)

    def forward(self, input: Tensor) -> Tensor:
        """The convolution with pruned weights at zero; in training it may measure strengths."""
        output: Tensor = self._conv_forward(input, self.masked_weight(), self.bias)
        if self.training:
            self._observe(input, output)
        return output


class DSLinear(SparseConnections, nn.Linear):
    """A linear layer that prunes and restarts its connections by their strength.

    Args as torch.nn.Linear, then the keyword settings of `SparseSettings`; scopes are output neurons
    (`prune_dims=(0,)`), k1=0.1 and k2=0.15 unless given.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **settings: Unpack[SparseSettings],
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        settings.setdefault("prune_dims", (0,))
        self._start_connections(**settings)

    @classmethod
    def from_linear(cls, linear: nn.Linear, **settings: Unpack[SparseSettings]) -> Self:
        """A sparse layer with copies of a linear layer's weights; draws no random numbers.

        Raises:
            ValueError: as `DSConv2d.from_conv`.
        """
        check_own_weight(linear)
        with torch.random.fork_rng(devices=[]):
            layer = cls(linear.in_features, linear.out_features, linear.bias is not None, **settings)
        return _take_weights(layer, linear)

    @property
    def geometry(self) -> LinearGeometry:
        """Every leading dimension counts as samples."""
        return LinearGeometry()

    def forward(self, input: Tensor) -> Tensor:
        """The linear map with pruned weights at zero; in training it may measure strengths."""
        output = F.linear(input, self.masked_weight(), self.bias)
        if self.training:
            self._observe(input, output)
        return output


_Layer = TypeVar("_Layer", bound=nn.Module)


def _take_weights(layer: _Layer, plain: nn.Conv2d | nn.Linear) -> _Layer:
    layer.to(plain.weight.device, plain.weight.dtype)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            own = layer.get_parameter(name)
            own.copy_(parameter)
            own.requires_grad_(parameter.requires_grad)
    return layer.train(plain.training)
