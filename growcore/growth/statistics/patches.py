"""Where a convolution reads: patches of an input map, and what they correlate to.

Shapes: N batch, C in, O out, H W input map, P Q output map, K L kernel. u is one patch, C*K*L numbers,
read by every output channel at one position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

weight_gradient: Callable[..., Tensor] = conv2d_weight  # torch leaves it untyped


@dataclass(frozen=True, slots=True)
class Patches:
    """The patches a kernel reads from a map, with zeros around the map.

    Pairs are (along rows, along columns); pads are the zeros before the first and behind the last entry.
    """

    x_NCHW: Tensor
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    behind: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """H and W of the map."""
        return self.x_NCHW.shape[2], self.x_NCHW.shape[3]

    @property
    def counts(self) -> tuple[int, int]:
        """P and Q: positions along rows and columns."""
        return self._count(0), self._count(1)

    @property
    def width(self) -> int:
        """Numbers in a patch, C*K*L."""
        return self.x_NCHW.shape[1] * self.kernel[0] * self.kernel[1]

    def _count(self, axis: int) -> int:
        padded = self.size[axis] + self.before[axis] + self.behind[axis]
        return (padded - self.dilation[axis] * (self.kernel[axis] - 1) - 1) // self.stride[axis] + 1

    def padded(self) -> Tensor:
        """The map with its zeros."""
        pads = (self.before[1], self.behind[1], self.before[0], self.behind[0])
        return F.pad(self.x_NCHW, pads) if any(pads) else self.x_NCHW

    def samples(self, start: int, stop: int) -> Patches:
        """The patches of some of the samples."""
        return replace(self, x_NCHW=self.x_NCHW[start:stop])

    def at(self, rows: range, columns: range) -> Patches:
        """The patches of some of the positions, evenly spaced."""
        if (rows, columns) == (range(self.counts[0]), range(self.counts[1])):
            return self
        slices, strides = [], []
        for axis, positions in enumerate((rows, columns)):
            first = positions.start * self.stride[axis]
            last = positions[-1] * self.stride[axis] + self.dilation[axis] * (self.kernel[axis] - 1)
            slices.append(slice(first, last + 1))
            strides.append(positions.step * self.stride[axis])
        x = self.padded()[:, :, slices[0], slices[1]]
        return Patches(x, self.kernel, (strides[0], strides[1]), self.dilation, (0, 0), (0, 0))

    def columns(self) -> Tensor:
        """(N, C*K*L, P*Q): every patch as a column."""
        if self.width == 0:
            return self.x_NCHW.new_zeros(self.x_NCHW.shape[0], 0, self.counts[0] * self.counts[1])
        return F.unfold(self.padded(), self.kernel, self.dilation, 0, self.stride)


def patches_of(layer: nn.Conv2d, x_NCHW: Tensor) -> Patches:
    """What a layer reads of an input, in accumulation precision; other padding than zeros is written out."""
    x = x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    if layer.padding_mode != "zeros":
        x = F.pad(x, (left, right, top, bottom), mode=layer.padding_mode)
        left = right = top = bottom = 0
    kernel, stride, dilation = (_pair(p) for p in (layer.kernel_size, layer.stride, layer.dilation))
    return Patches(x, kernel, stride, dilation, (top, left), (bottom, right))


def turned_patches(layer: nn.Conv2d, g_NOPQ: Tensor, size: tuple[int, int]) -> Patches:
    """For every point of an input map of that size the outputs that read it: taps in reverse, stride 1."""
    left, _, top, _ = layer._reversed_padding_repeated_twice
    kernel, dilation = _pair(layer.kernel_size), _pair(layer.dilation)
    before = dilation[0] * (kernel[0] - 1) - top, dilation[1] * (kernel[1] - 1) - left
    behind = size[0] + top - g_NOPQ.shape[2], size[1] + left - g_NOPQ.shape[3]
    g = g_NOPQ.to(torch.promote_types(g_NOPQ.dtype, torch.float32))
    return Patches(g, kernel, (1, 1), dilation, before, behind)


def output_size(layer: nn.Conv2d, size: tuple[int, int]) -> tuple[int, int]:
    """Size of the layer's output map for an input map of that size."""
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    rows = (size[0] + top + bottom - reach[0]) // layer.stride[0] + 1
    return rows, (size[1] + left + right - reach[1]) // layer.stride[1] + 1


def tap_positions(layer: nn.Conv2d, size: tuple[int, int], tap: tuple[int, int]) -> tuple[range, range]:
    """Rows and columns of an input map, of the given size, that one tap of the layer reads within the map."""
    bounds = [_tap_bounds(layer, size, axis, tap[axis]) for axis in (0, 1)]
    return range(*bounds[0]), range(*bounds[1])


def tap_outputs(layer: nn.Conv2d, size: tuple[int, int], tap: tuple[int, int]) -> tuple[range, range]:
    """The output positions at which that tap reads `tap_positions`."""
    outputs = []
    for axis in (0, 1):
        positions = range(*_tap_bounds(layer, size, axis, tap[axis]))
        first = (positions.start - _tap_offset(layer, axis, tap[axis])) // positions.step
        outputs.append(range(first, first + len(positions)))
    return outputs[0], outputs[1]


def hits(layer: nn.Conv2d, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How often the rows and the columns of an input map are read; a point is read row times column."""
    counts = []
    for axis in (0, 1):
        count = torch.zeros(size[axis])
        for tap in range(layer.kernel_size[axis]):
            start, stop, step = _tap_bounds(layer, size, axis, tap)
            count[start:stop:step] += 1
        counts.append(count)
    return counts[0], counts[1]


def weight_correlation(patches: Patches, g_NOPQ: Tensor, with_ones: bool) -> Tensor:
    """Sum of u g^T over samples and positions, (C*K*L + 1, O): the gradient of a convolution's weight."""
    g = g_NOPQ.to(patches.x_NCHW.dtype).contiguous()
    shape = (g.shape[1], patches.x_NCHW.shape[1], *patches.kernel)
    if patches.width == 0 or g.shape[1] == 0:
        rows = g.new_zeros(patches.width, g.shape[1])
        return torch.cat([rows, g.sum((0, 2, 3))[None]]) if with_ones else rows
    if patches.before == patches.behind:
        x, padding = patches.x_NCHW, patches.before
    else:
        x, padding = patches.padded(), (0, 0)
    weight = weight_gradient(x, shape, g, patches.stride, padding, patches.dilation)
    rows = weight.flatten(1).T
    return torch.cat([rows, g.sum((0, 2, 3))[None]]) if with_ones else rows


def column_sums(patches: Patches) -> Tensor:
    """Sum of u over samples and positions with the number of both appended, (C*K*L + 1,)."""
    num_samples = patches.x_NCHW.shape[0]
    summed = replace(patches, x_NCHW=patches.x_NCHW.sum(0, keepdim=True))
    number = summed.x_NCHW.new_tensor([num_samples * patches.counts[0] * patches.counts[1]])
    return torch.cat([summed.columns()[0].sum(1), number])


def _tap_offset(layer: nn.Conv2d, axis: int, tap: int) -> int:
    """Input row (column) that the tap reads at output position 0; negative in the padding."""
    pads = layer._reversed_padding_repeated_twice
    return tap * layer.dilation[axis] - (pads[2] if axis == 0 else pads[0])


def _tap_bounds(layer: nn.Conv2d, size: tuple[int, int], axis: int, tap: int) -> tuple[int, int, int]:
    step = layer.stride[axis]
    offset = _tap_offset(layer, axis, tap)
    first = offset % step if offset < 0 else offset
    stop = min(size[axis], offset + (output_size(layer, size)[axis] - 1) * step + 1)
    return first, max(stop, first), step


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return value[0], value[1]
