"""Statistics of convolutions: pure functions of tensors and layer geometry; no modules keep state here.

Shapes: N batch, C in, O out, H W input map, P Q output map, K L kernel. u is a column of the unfolded
input, C*K*L numbers; the same column is seen by every output channel at one position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

_weight_gradient: Callable[..., Tensor] = conv2d_weight  # torch leaves it untyped

# Columns per Gram product: enough for a full-speed matrix product, few enough to stay in the cache.
_COLUMNS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Window:
    """Where a kernel reads: kernel size, stride and dilation on an input that is padded already."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]

    def count(self, size: int, axis: int) -> int:
        """Number of positions on a padded map of that size along an axis."""
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (size - reach) // self.stride[axis] + 1


def window_of(layer: nn.Conv2d) -> Window:
    """The window of a layer."""
    return Window(_pair(layer.kernel_size), _pair(layer.stride), _pair(layer.dilation))


def padded(layer: nn.Conv2d, x_NCHW: Tensor) -> Tensor:
    """The input with the layer's own padding, whatever its mode, in accumulation precision."""
    x = x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
    pads = list(layer._reversed_padding_repeated_twice)
    if not any(pads):
        return x
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, pads, mode=mode)


def output_size(layer: nn.Conv2d, size: tuple[int, int]) -> tuple[int, int]:
    """Size of the layer's output map for an input map of that size."""
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    window = window_of(layer)
    return window.count(size[0] + top + bottom, 0), window.count(size[1] + left + right, 1)


def centre_positions(layer: nn.Conv2d, size: tuple[int, int]) -> tuple[range, range]:
    """Rows and columns of the input map, of the given size, that the centre tap reads within the map.

    Output positions whose centre lies in the padding are left out: new inputs contribute nothing there.
    """
    return range(*_centre_bounds(layer, size, 0)), range(*_centre_bounds(layer, size, 1))


def centre_outputs(layer: nn.Conv2d, size: tuple[int, int]) -> tuple[slice, slice]:
    """The output positions that belong to `centre_positions`, as slices of the output map."""
    slices = []
    for axis in (0, 1):
        start, stop, step = _centre_bounds(layer, size, axis)
        first = (start - _centre_offset(layer, axis)) // step
        slices.append(slice(first, first + len(range(start, stop, step))))
    return slices[0], slices[1]


def crop_for(window: Window, x_padded: Tensor, rows: range, columns: range) -> tuple[Tensor, Window]:
    """The part of a padded input that the output positions (rows, columns) read, and the window on it.

    The window has the stride between these positions, so it visits exactly them.
    """
    slices, strides = [], []
    for axis, positions in enumerate((rows, columns)):
        first = positions.start * window.stride[axis]
        last = positions[-1] * window.stride[axis] + window.dilation[axis] * (window.kernel[axis] - 1)
        slices.append(slice(first, last + 1))
        strides.append(positions.step * window.stride[axis])
    cropped = x_padded[:, :, slices[0], slices[1]]
    return cropped, Window(window.kernel, (strides[0], strides[1]), window.dilation)


def unfold(window: Window, x_padded: Tensor) -> Tensor:
    """(N, C*K*L, positions): the columns the window sees."""
    return F.unfold(x_padded, window.kernel, window.dilation, 0, window.stride)


def gram(window: Window, x_padded: Tensor, with_ones: bool) -> Tensor:
    """Sum of u u^T over samples and positions, with a row and a column of sums for the bias."""
    return cross_gram((window, x_padded, with_ones), (window, x_padded, with_ones))


def cross_gram(left: tuple[Window, Tensor, bool], right: tuple[Window, Tensor, bool]) -> Tensor:
    """Sum of u_left u_right^T over samples and shared positions; each side is (window, input, with_ones)."""
    num_samples = left[1].shape[0]
    step = max(1, _COLUMNS_AT_ONCE // max(_num_positions(left[0], left[1]), 1))
    total = left[1].new_zeros(_num_rows(left), _num_rows(right))
    same = left[1] is right[1] and left[0] == right[0]
    for start in range(0, num_samples, step):
        u = _columns(left, start, start + step)
        v = u if same else _columns(right, start, start + step)
        total.addmm_(u, v.T)
    return total


def weight_correlation(window: Window, x_padded: Tensor, g_NOPQ: Tensor, with_ones: bool) -> Tensor:
    """Sum of u g^T over samples and positions, (C*K*L + 1, O): the gradient of a convolution's weight."""
    g = g_NOPQ.to(x_padded.dtype)
    shape = [g.shape[1], x_padded.shape[1], *window.kernel]
    weight = _weight_gradient(x_padded, shape, g.contiguous(), stride=window.stride, dilation=window.dilation)
    rows = weight.flatten(1).T
    return torch.cat([rows, g.sum((0, 2, 3))[None]]) if with_ones else rows


def column_sums(window: Window, x_padded: Tensor) -> Tensor:
    """Sum of u over samples and positions with the number of both appended, (C*K*L + 1,)."""
    counts = [window.count(x_padded.shape[2 + axis], axis) for axis in (0, 1)]
    columns = unfold(window, x_padded.sum(0, keepdim=True))[0].sum(1)
    return torch.cat([columns, columns.new_tensor([x_padded.shape[0] * counts[0] * counts[1]])])


def _columns(side: tuple[Window, Tensor, bool], start: int, stop: int) -> Tensor:
    """(rows, samples * positions) of a chunk of the batch."""
    window, x_padded, with_ones = side
    u = unfold(window, x_padded[start:stop])
    if with_ones:
        u = torch.cat([u, u.new_ones(u.shape[0], 1, u.shape[2])], dim=1)
    return u[0] if u.shape[0] == 1 else u.transpose(0, 1).flatten(1)


def _num_rows(side: tuple[Window, Tensor, bool]) -> int:
    window, x_padded, with_ones = side
    return x_padded.shape[1] * window.kernel[0] * window.kernel[1] + int(with_ones)


def _num_positions(window: Window, x_padded: Tensor) -> int:
    return window.count(x_padded.shape[2], 0) * window.count(x_padded.shape[3], 1)


def _centre_offset(layer: nn.Conv2d, axis: int) -> int:
    """Input row (column) that the centre tap reads at output position 0; negative in the padding."""
    pads = layer._reversed_padding_repeated_twice
    before = pads[2] if axis == 0 else pads[0]
    window = window_of(layer)
    return window.dilation[axis] * (window.kernel[axis] // 2) - before


def _centre_bounds(layer: nn.Conv2d, size: tuple[int, int], axis: int) -> tuple[int, int, int]:
    step = window_of(layer).stride[axis]
    offset = _centre_offset(layer, axis)
    first = offset % step if offset < 0 else offset
    num_outputs = output_size(layer, size)[axis]
    stop = min(size[axis], offset + (num_outputs - 1) * step + 1)
    return first, max(stop, first), step


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return value[0], value[1]
