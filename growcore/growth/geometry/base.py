"""What a kind of layer has to say to grow; GrowingModule asks its `geometry` and knows no kinds itself.

A geometry keeps nothing. Letters: b input of the layer, extended by 1 where there is a bias, g = dL/da; index
-1 is the layer's own input, -2 that of the layer before. Sums are over samples and positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from growcore.growth.layers import Layer

if TYPE_CHECKING:
    from growcore.growth.module import GrowingModule


@dataclass(frozen=True, slots=True)
class Reading:
    """A layer and an input that it read."""

    name: str  # of the module, for messages
    layer: Layer
    x: Tensor

    @property
    def with_ones(self) -> bool:
        """Whether the input is extended by 1, for the bias."""
        return self.layer.bias is not None


class Geometry:
    """A layer's own input and a pair of layers, the first of which gains outputs that the second reads."""

    # Whether second layers see the first input in a way of their own, so that S_growth is not the first's S.
    own_growth_moment = False

    def input_extended(self, own: Reading) -> Tensor:
        """The input, extended by ones where the layer has a bias."""
        raise NotImplementedError

    def second_moment(self, own: Reading) -> Tensor:
        """Sum of b b^T."""
        raise NotImplementedError

    def correlation(self, own: Reading, goal: Tensor) -> Tensor:
        """Sum of b g^T, for `goal` as g."""
        raise NotImplementedError

    def previous_second_moment(self, before: Reading, own: Reading) -> Tensor:
        """Sum of b(-2) b(-2)^T as often as new neurons are read, where that is not the first layer's S."""
        raise NotImplementedError

    def previous_correlation(self, before: Reading, own: Reading, goal: Tensor) -> Tensor:
        """Sum of b(-2) g^T, for `goal` as g."""
        raise NotImplementedError

    def cross_covariance(self, before: Reading, own: Reading) -> Tensor:
        """Sum of b(-2) b(-1)^T."""
        raise NotImplementedError

    def previous_sum(self, before: Reading, own: Reading) -> Tensor:
        """Sum of the first layer's input with 1 appended, as often as new neurons are read."""
        raise NotImplementedError

    def projected(self, cross_covariance: Tensor, delta: Tensor) -> Tensor:
        """C delta^T, shaped as M_prev."""
        return cross_covariance @ delta.T

    def omega_kernel(self, layer: Layer, omega: Tensor) -> Tensor:
        """The solved omega as a weight of the second layer for its new inputs."""
        raise NotImplementedError

    def omega_of_kernel(self, layer: Layer, kernel: Tensor) -> Tensor:
        """A weight for new inputs as compute_optimal_added_parameters returns it."""
        return kernel

    def check_pair(self, first: GrowingModule, second: GrowingModule) -> None:
        """Raise a ValueError where the two modules cannot share new neurons."""

    def check_extension_sizes(
        self, first: GrowingModule, second: GrowingModule, num_outputs: int, num_inputs: int
    ) -> None:
        """Raise a ValueError where so many new outputs before do not make so many new inputs here."""
        self.check_pair(first, second)
        if num_outputs != num_inputs:
            raise ValueError(
                f"Every new neuron before {second.name} is one new input of it; got "
                f"output_extension_size={num_outputs}, input_extension_size={num_inputs}."
            )
