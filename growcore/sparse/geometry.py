"""How the connections of a layer join inputs to outputs: linear maps and convolutions.

A *tap* is the input value that one connection reads at one output position; the shared fact is that
sum over samples and positions of tap * output is the layer's weight gradient, for any input and output.

Shapes: N batch, C in, O out, HW input map, PQ output map, KL kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class LinearGeometry:
    """A linear layer; every leading dimension counts as samples."""

    def weight_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """X (..., C) and y (..., O) to O x C."""
        return y.reshape(-1, y.shape[-1]).T @ x.reshape(-1, x.shape[-1])

    def num_terms(self, y: Tensor) -> int:
        """Rows of y."""
        return y.numel() // y.shape[-1]


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
        x, padding = self.pad(x)
        gradient: Tensor = torch.ops.aten.convolution_backward(
            y,
            x,
            # Only the shape of the weight is read.
            y.new_empty(1).expand(y.shape[1], x.shape[1] // self.groups, *self.kernel_size),
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

    def pad(self, x_NCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The input with what padding a convolution cannot do itself, and the padding left to it."""
        (top, bottom), (left, right) = self.margins()
        if self.padding_mode == "zeros":
            if top == bottom and left == right:
                return x_NCHW, (top, left)
            return F.pad(x_NCHW, (left, right, top, bottom)), (0, 0)
        return F.pad(x_NCHW, (left, right, top, bottom), mode=self.padding_mode), (0, 0)

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


def _batched(x: Tensor) -> Tensor:
    return x.unsqueeze(0) if x.dim() == 3 else x
