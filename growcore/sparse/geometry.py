"""How the connections of a layer join inputs to outputs: linear maps and convolutions.

A *tap* is the input value that one connection reads at one output position; the shared fact is that
sum over samples and positions of tap * output is the layer's weight gradient, for any input and output.

Shapes: N batch, C in, O out, HW input map, PQ output map, KL kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Geometry(Protocol):
    """What a strength needs to know of a layer."""

    def weight_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum over samples and positions of tap * y, shaped like the weight."""
        ...

    def num_terms(self, y: Tensor) -> int:
        """Samples times output positions: the terms of that sum."""
        ...

    def as_convolution(self, x: Tensor, y: Tensor) -> tuple[ConvGeometry, Tensor, Tensor]:
        """The same layer as a convolution without padding: its geometry, padded input and output."""
        ...

    def weight_shaped(self, values_OCKL: Tensor) -> Tensor:
        """Values for the connections of that convolution, shaped like this layer's weight."""
        ...


@dataclass(frozen=True, slots=True)
class LinearGeometry:
    """A linear layer; every leading dimension counts as samples."""

    def weight_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """X (..., C) and y (..., O) to O x C."""
        return y.reshape(-1, y.shape[-1]).T @ x.reshape(-1, x.shape[-1])

    def num_terms(self, y: Tensor) -> int:
        """Rows of y."""
        return y.numel() // y.shape[-1]

    def as_convolution(self, x: Tensor, y: Tensor) -> tuple[ConvGeometry, Tensor, Tensor]:
        """A 1 x 1 convolution; dimensions between the first and the last are its positions."""
        return ConvGeometry((1, 1)), _as_map(x), _as_map(y)

    def weight_shaped(self, values_OCKL: Tensor) -> Tensor:
        """O x C."""
        return values_OCKL.flatten(1)


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Kernel, stride, padding, dilation and groups of a two-dimensional convolution."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | str = (0, 0)  # cells on each side, 'same' or 'valid'
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"  # or 'reflect', 'replicate', 'circular'

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ConvGeometry:
        """The geometry of a torch layer."""
        padding = conv.padding if isinstance(conv.padding, str) else _pair(conv.padding)
        return cls(
            kernel_size=_pair(conv.kernel_size),
            stride=_pair(conv.stride),
            padding=padding,
            dilation=_pair(conv.dilation),
            groups=conv.groups,
            padding_mode=conv.padding_mode,
        )

    def weight_gradient(self, x_NCHW: Tensor, y_NOPQ: Tensor) -> Tensor:
        """One convolution weight gradient; x is the input before padding. Returns O x C/groups x K x L."""
        x, y = _batched(x_NCHW), _batched(y_NOPQ)
        (top, bottom), (left, right) = self.margins()
        padding = (top, left)
        # A convolution pads with zeros, alike on both sides; other padding is written out.
        if self.padding_mode != "zeros" or top != bottom or left != right:
            x, padding = self._padded(x), (0, 0)
        gradient: Tensor = torch.ops.aten.convolution_backward.default(
            y,
            x,
            # Only the shape of the weight is read.
            y.new_empty((y.shape[1], x.shape[1] // self.groups, *self.kernel_size)),
            None,
            self.stride,
            padding,
            self.dilation,
            False,
            (0, 0),
            self.groups,
            (False, True, False),
        )[1]
        return gradient

    def num_terms(self, y_NOPQ: Tensor) -> int:
        """N * P * Q."""
        return y_NOPQ.numel() // y_NOPQ.shape[-3]

    def as_convolution(self, x_NCHW: Tensor, y_NOPQ: Tensor) -> tuple[ConvGeometry, Tensor, Tensor]:
        """With the padding written out."""
        x = self._padded(_batched(x_NCHW))
        return replace(self, padding=(0, 0), padding_mode="zeros"), x, _batched(y_NOPQ)

    def weight_shaped(self, values_OCKL: Tensor) -> Tensor:
        """The values as they are."""
        return values_OCKL

    def taps(self, x_NCHW: Tensor) -> Tensor:
        """What each connection reads where: a P x Q x G x N x K x L x C/G view of a padded input.

        It copies fastest from an input with channels last.
        """
        steps = x_NCHW.stride()
        P, Q = self.output_size(x_NCHW)
        num_channels = x_NCHW.shape[1] // self.groups
        return x_NCHW.as_strided(
            (P, Q, self.groups, x_NCHW.shape[0], *self.kernel_size, num_channels),
            (
                steps[2] * self.stride[0],
                steps[3] * self.stride[1],
                steps[1] * num_channels,
                steps[0],
                steps[2] * self.dilation[0],
                steps[3] * self.dilation[1],
                steps[1],
            ),
        )

    def tap_deviations(self, x_NCHW: Tensor) -> Tensor:
        """Standard deviation of each tap of a padded input over samples and positions, C x K x L.

        It is exactly 0 for a tap that is constant to within rounding.
        """
        x = x_NCHW.double()
        # Summed over samples first, so that a kernel's windows slide over one map only.
        sums_2CHW = torch.stack([x.sum(0), x.square().sum(0)])
        P, Q = self.output_size(x_NCHW)
        rows, columns = self._windows(0, P), self._windows(1, Q)
        windows = [sums_2CHW[:, :, row, column].sum((2, 3)) for row in rows for column in columns]
        moments = torch.stack(windows, dim=-1) / (x_NCHW.shape[0] * P * Q)
        variance = moments[1] - moments[0].square()
        variance = torch.where(variance > 1e-12 * moments[1], variance, 0)
        return variance.sqrt().reshape(-1, *self.kernel_size).to(x_NCHW.dtype)

    def output_size(self, x_NCHW: Tensor) -> tuple[int, int]:
        """P and Q of the output of a padded input."""
        sizes = zip(x_NCHW.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True)
        P, Q = (
            (size - dilation * (kernel - 1) - 1) // stride + 1 for size, kernel, stride, dilation in sizes
        )
        return P, Q

    def _windows(self, side: int, num_positions: int) -> list[slice]:
        """For each kernel cell along a side, the input cells that it reads."""
        dilation, stride = self.dilation[side], self.stride[side]
        starts = [dilation * cell for cell in range(self.kernel_size[side])]
        return [slice(start, start + stride * (num_positions - 1) + 1, stride) for start in starts]

    def _padded(self, x_NCHW: Tensor) -> Tensor:
        (top, bottom), (left, right) = self.margins()
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x_NCHW, (left, right, top, bottom), mode=mode)

    def margins(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Cells of padding (top, bottom), (left, right); 'same' puts the odd one last, as torch does."""
        if self.padding == "valid":
            return (0, 0), (0, 0)
        if isinstance(self.padding, str):
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            rows, columns = ((total // 2, total - total // 2) for total in totals)
            return rows, columns
        return (self.padding[0], self.padding[0]), (self.padding[1], self.padding[1])


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return values[0], values[1]


def _as_map(x: Tensor) -> Tensor:
    x = x.reshape(1, -1) if x.dim() == 1 else x
    return x.flatten(1, -2).transpose(1, 2).unsqueeze(-1) if x.dim() > 2 else x[..., None, None]


def _batched(x: Tensor) -> Tensor:
    return x.unsqueeze(0) if x.dim() == 3 else x
