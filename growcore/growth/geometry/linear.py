"""Fully connected layers: positions of a sequence (N, T, features) are summed, samples are counted.

Sizes: in inputs, out outputs, in_prev inputs of the layer before; + 1 where there is a bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from growcore.growth.geometry.base import Geometry, Reading
from growcore.growth.layers import Layer
from growcore.growth.statistics.rows import as_rows, product

if TYPE_CHECKING:
    from growcore.growth.module import GrowingModule


class LinearGeometry(Geometry):
    """One row of numbers for each sample and position."""

    def input_extended(self, own: Reading) -> Tensor:
        """(N, ..., in + 1) the input with ones at the end; (N, ..., in) without a bias."""
        if not own.with_ones:
            return own.x
        return torch.cat([own.x, own.x.new_ones(*own.x.shape[:-1], 1)], dim=-1)

    def second_moment(self, own: Reading) -> Tensor:
        """Sum of b b^T, (in+1, in+1)."""
        rows = as_rows(own.x)
        return product(rows, rows, own.with_ones, own.with_ones)

    def correlation(self, own: Reading, goal: Tensor) -> Tensor:
        """Sum of b g^T, (in+1, out)."""
        return product(as_rows(own.x), as_rows(goal), own.with_ones, False)

    def previous_correlation(self, before: Reading, own: Reading, goal: Tensor) -> Tensor:
        """Sum of b(-2) g^T, (in_prev+1, out)."""
        return product(as_rows(before.x), as_rows(goal), before.with_ones, False)

    def cross_covariance(self, before: Reading, own: Reading) -> Tensor:
        """Sum of b(-2) b(-1)^T, (in_prev+1, in+1)."""
        return product(as_rows(before.x), as_rows(own.x), before.with_ones, own.with_ones)

    def previous_sum(self, before: Reading, own: Reading) -> Tensor:
        """Sum of b(-2) with 1 appended, (in_prev+1,)."""
        rows = as_rows(before.x)
        return torch.cat([rows.sum(0), rows.new_tensor([rows.shape[0]])])

    def omega_kernel(self, layer: Layer, omega: Tensor) -> Tensor:
        """The weight is omega (out, k) itself."""
        return omega

    def check_pair(self, first: GrowingModule, second: GrowingModule) -> None:
        """Raise a ValueError unless a linear layer of as many outputs as the second has inputs is first."""
        if not isinstance(first.layer, nn.Linear) or first.out_neurons != second.in_neurons:
            raise ValueError(
                f"A linear layer grows behind a linear layer of as many outputs as it has inputs "
                f"({second.in_neurons}); got {first.name}, a {type(first).__name__} of "
                f"{first.out_neurons} outputs."
            )

    def check_extension_sizes(
        self, first: GrowingModule, second: GrowingModule, num_outputs: int, num_inputs: int
    ) -> None:
        """Raise a ValueError where so many new outputs before do not make so many new inputs here.

        Behind a flattened convolution every channel makes one input per position of its map.
        """
        if isinstance(first.layer, nn.Linear):
            super().check_extension_sizes(first, second, num_outputs, num_inputs)
            return
        channels = first.out_neurons
        num_positions = second.in_neurons // max(channels, 1)
        if channels * num_positions != second.in_neurons or num_inputs != num_outputs * num_positions:
            raise ValueError(
                f"{second.name} reads {second.in_neurons} inputs of {channels} flattened channels, so "
                f"input_extension_size must be {num_positions} times output_extension_size; got "
                f"output_extension_size={num_outputs}, input_extension_size={num_inputs}."
            )
