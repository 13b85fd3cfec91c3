"""Convolutions: inputs are unfolded into patches and summed over positions.

Shapes: C channels in, O out, K L kernel; C_prev and its K L belong to the layer before. New channels are read
by the centre tap of the kernel only (restricted), so that one acts like a neuron between two fully connected
layers, position by position, or by every tap (full).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from growcore.growth.geometry.base import Geometry, Reading
from growcore.growth.layers import Layer
from growcore.growth.statistics.gram import cross_gram, gram, weighted_gram
from growcore.growth.statistics.patches import (
    Patches,
    column_sums,
    hits,
    output_size,
    patches_of,
    tap_outputs,
    tap_positions,
    turned_patches,
    weight_correlation,
)

if TYPE_CHECKING:
    from growcore.growth.module import GrowingModule

Tap = tuple[int, int]  # row and column of the kernel


class ConvGeometry(Geometry):
    """What a convolution reads; where new channels are read is left to the two kinds of pair."""

    own_growth_moment = True

    def taps(self, layer: nn.Conv2d) -> list[Tap]:
        """The taps of the kernel that read new channels."""
        raise NotImplementedError

    def input_extended(self, own: Reading) -> Tensor:
        """(N, C*K*L + 1, positions) the unfolded input with a row of ones; without it if there is no bias."""
        columns = _patches(own).columns()
        if not own.with_ones:
            return columns
        return torch.cat([columns, columns.new_ones(columns.shape[0], 1, columns.shape[2])], dim=1)

    def second_moment(self, own: Reading) -> Tensor:
        """Sum of b b^T over samples and positions, (C*K*L + 1, C*K*L + 1)."""
        return gram(_patches(own), own.with_ones)

    def correlation(self, own: Reading, goal: Tensor) -> Tensor:
        """Sum of b g^T over samples and positions, (C*K*L + 1, O)."""
        return weight_correlation(_patches(own), goal, own.with_ones)

    def check_pair(self, first: GrowingModule, second: GrowingModule) -> None:
        """Raise a ValueError where the two modules cannot share new channels."""
        if not isinstance(first.layer, nn.Conv2d) or first.out_neurons != second.in_neurons:
            raise ValueError(
                f"A convolution grows behind a convolution of as many output channels as it has input "
                f"channels ({second.in_neurons}); got {first.name}, a {type(first).__name__} of "
                f"{first.out_neurons} outputs."
            )
        for module in (first, second):
            if _conv(module.layer).groups != 1:
                raise ValueError(
                    f"Growth is defined for groups=1, where a new channel meets every other; "
                    f"{module.name} has groups={_conv(module.layer).groups}. Leave it out of growth."
                )


class RestrictedGeometry(ConvGeometry):
    """New channels are read by the centre tap; centres outside the map before add nothing, bias included.

    S_growth is summed at the centres; it is the layer's before own S only where they are the whole map.
    """

    def taps(self, layer: nn.Conv2d) -> list[Tap]:
        """The centre."""
        return [_centre(layer)]

    def check_pair(self, first: GrowingModule, second: GrowingModule) -> None:
        """Raise a ValueError where the two modules cannot share new channels."""
        super().check_pair(first, second)
        sides = tuple(_conv(second.layer).kernel_size)
        if any(side % 2 == 0 for side in sides):
            raise ValueError(
                f"New channels are read by the centre of the kernel, so its sides must be odd; "
                f"{second.name} has kernel_size={sides}."
            )

    def previous_second_moment(self, before: Reading, own: Reading) -> Tensor:
        """Sum of b(-2) b(-2)^T over samples and centres."""
        return gram(_previous_at(before, own, _centre(own.layer)), before.with_ones)

    def previous_correlation(self, before: Reading, own: Reading, goal: Tensor) -> Tensor:
        """Sum of b(-2) g^T over samples and centres, (C_prev*K*L + 1, O)."""
        centre = _centre(own.layer)
        goal = _goal_at(own, centre, goal)
        return weight_correlation(_previous_at(before, own, centre), goal, before.with_ones)

    def cross_covariance(self, before: Reading, own: Reading) -> Tensor:
        """Sum of b(-2) b(-1)^T over samples and centres."""
        left, right = _previous_at(before, own, _centre(own.layer)), _own_at(own, _centre(own.layer))
        return cross_gram(left, right, before.with_ones, own.with_ones)

    def previous_sum(self, before: Reading, own: Reading) -> Tensor:
        """Sum of b(-2) with 1 appended over samples and centres."""
        return column_sums(_previous_at(before, own, _centre(own.layer)))

    def omega_kernel(self, layer: Layer, omega: Tensor) -> Tensor:
        """A kernel that is omega (out, k) at the centre and zero elsewhere."""
        kernel = omega.new_zeros(*omega.shape, *_conv(layer).kernel_size)
        row, column = _centre(layer)
        kernel[:, :, row, column] = omega
        return kernel

    def omega_of_kernel(self, layer: Layer, kernel: Tensor) -> Tensor:
        """(out, k) at the centre."""
        row, column = _centre(layer)
        return kernel[:, :, row, column]


class FullGeometry(ConvGeometry):
    """New channels are read by every tap.

    S_growth sums over all pairs of a position and a tap that reads within the previous map; M_prev is
    (C_prev*K*L + 1, O * taps), C is (C_prev*K*L + 1, taps, C*K*L + 1).
    """

    def taps(self, layer: nn.Conv2d) -> list[Tap]:
        """Every tap, row by row."""
        return [(i, j) for i in range(layer.kernel_size[0]) for j in range(layer.kernel_size[1])]

    def check_pair(self, first: GrowingModule, second: GrowingModule) -> None:
        """Raise a ValueError where the two modules cannot share new channels."""
        super().check_pair(first, second)
        mode = _conv(second.layer).padding_mode
        if mode != "zeros":
            raise ValueError(
                f"New channels are padded by zeros; {second.name} has padding_mode={mode!r}. "
                f"Use padding_mode='zeros'."
            )

    def previous_second_moment(self, before: Reading, own: Reading) -> Tensor:
        """Sum of b(-2) b(-2)^T over samples, positions and taps."""
        _check_grid(before, own)
        rows, columns = hits(_conv(own.layer), _size(own.x))
        return weighted_gram(_patches(before), rows, columns, before.with_ones)

    def previous_correlation(self, before: Reading, own: Reading, goal: Tensor) -> Tensor:
        """Sum of b(-2) g^T for every tap, (C_prev*K*L + 1, O * taps)."""
        layer = _conv(own.layer)
        _check_grid(before, own)
        if tuple(layer.stride) == (1, 1):
            # Seen from the previous map, its points read the goal by the kernel turned around.
            turned = turned_patches(layer, goal, _size(own.x))
            update = cross_gram(_patches(before), turned, before.with_ones, False)
            return update.reshape(-1, layer.out_channels, *layer.kernel_size).flip(2, 3).flatten(1)
        per_tap = [
            weight_correlation(_previous_at(before, own, tap), _goal_at(own, tap, goal), before.with_ones)
            for tap in self.taps(layer)
        ]
        return torch.stack(per_tap, dim=2).flatten(1)

    def cross_covariance(self, before: Reading, own: Reading) -> Tensor:
        """Sum of b(-2) b(-1)^T per tap, (C_prev*K*L + 1, taps, C*K*L + 1)."""
        per_tap = [
            cross_gram(_previous_at(before, own, tap), _own_at(own, tap), before.with_ones, own.with_ones)
            for tap in self.taps(_conv(own.layer))
        ]
        return torch.stack(per_tap, dim=1)

    def previous_sum(self, before: Reading, own: Reading) -> Tensor:
        """Sum of b(-2) with 1 appended over samples, positions and taps."""
        taps = self.taps(_conv(own.layer))
        return torch.stack([column_sums(_previous_at(before, own, tap)) for tap in taps]).sum(0)

    def projected(self, cross_covariance: Tensor, delta: Tensor) -> Tensor:
        """C delta^T for every tap, (C_prev*K*L + 1, O * taps)."""
        return torch.einsum("pti,oi->pot", cross_covariance, delta).flatten(1)

    def omega_kernel(self, layer: Layer, omega: Tensor) -> Tensor:
        """The solution (out * taps, k) as a kernel (out, k, kh, kw)."""
        conv = _conv(layer)
        return omega.reshape(conv.out_channels, *conv.kernel_size, -1).permute(0, 3, 1, 2)


def _patches(reading: Reading) -> Patches:
    return patches_of(_conv(reading.layer), reading.x)


def _previous_at(before: Reading, own: Reading, tap: Tap) -> Patches:
    """What the previous layer reads where it makes what the tap of this layer reads, within the map."""
    _check_grid(before, own)
    rows, columns = tap_positions(_conv(own.layer), _size(own.x), tap)
    return _patches(before).at(rows, columns)


def _own_at(own: Reading, tap: Tap) -> Patches:
    """What this layer reads at the positions where the tap is within the map."""
    return _patches(own).at(*tap_outputs(_conv(own.layer), _size(own.x), tap))


def _goal_at(own: Reading, tap: Tap, goal: Tensor) -> Tensor:
    rows, columns = tap_outputs(_conv(own.layer), _size(own.x), tap)
    return goal[:, :, rows.start : rows.stop, columns.start : columns.stop]


def _check_grid(before: Reading, own: Reading) -> None:
    """Raise a ValueError where something between two layers, such as pooling, has changed the grid."""
    made = output_size(_conv(before.layer), _size(before.x))
    if made != _size(own.x):
        raise ValueError(
            f"A pair of layers that grows shares a grid: {before.name} makes a {made} map, "
            f"{own.name} reads {_size(own.x)}. Downsample by stride, or pool outside the pair."
        )


def _centre(layer: Layer) -> Tap:
    kernel = _conv(layer).kernel_size
    return kernel[0] // 2, kernel[1] // 2


def _conv(layer: Layer) -> nn.Conv2d:
    assert isinstance(layer, nn.Conv2d)
    return layer


def _size(x_NCHW: Tensor) -> tuple[int, int]:
    return x_NCHW.shape[2], x_NCHW.shape[3]
