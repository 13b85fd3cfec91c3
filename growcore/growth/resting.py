"""What new neurons do near 0: the slopes of their function, and what it gives at rest.

sigma is the whole way from a new neuron's pre-activation to its readers. Where sigma(0) is not 0 (sigmoid,
softplus) a new neuron gives sigma(0) whatever its input; that part carries no information and would move
the readers by gamma sigma(0) omega, so it is taken off their biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from growcore.growth.extension import Extension
from growcore.growth.normalization import derivative_of_sum, value_at_zero

if TYPE_CHECKING:
    from growcore.growth.merge import Consumer
    from growcore.growth.module import GrowingModule


@dataclass(frozen=True, slots=True)
class Slopes:
    """Derivatives of sigma at 0 from either side."""

    right: float
    left: float

    @property
    def is_one_sided(self) -> bool:
        """Whether the sign of what a new neuron sees matters to first order."""
        return abs(self.right - self.left) > 1e-5 * max(abs(self.right), abs(self.left))

    @property
    def mean(self) -> float:
        return (self.right + self.left) / 2


def slopes(consumer: Consumer) -> Slopes:
    """Those of what stands between a consumer's producers and its readers."""
    functions = [producer.function_on_extension for producer in consumer.producers]
    right, left = (derivative_of_sum(functions, consumer.function_behind, at) for at in (1e-7, -1e-7))
    return Slopes(right, left)


def resting_value(reader: GrowingModule) -> float:
    """sigma(0) of the new neurons that a module reads."""
    consumer = reader.grows_with
    functions = [producer.function_on_extension for producer in consumer.producers]
    return value_at_zero(functions, consumer.function_behind) if functions else 0.0


def offset(reader: GrowingModule, omega: Tensor) -> Tensor | None:
    """(out,) sigma(0) times the sum of a reader's weights for new neurons; None where that is nothing.

    Raises:
        ValueError: the reader has no bias to take it off, or positions at which new neurons are not seen.
    """
    value = resting_value(reader)
    if value == 0 or not bool(omega.any()):
        return None
    shift = f"New neurons before {reader.name} give {value:.3g} at rest"
    if reader.bias is None:
        raise ValueError(
            f"{shift}, which its bias would have to take off; it has none. Give the layer a bias, or use a "
            f"function that is 0 at 0 before it."
        )
    if _reads_beyond(reader.layer, omega):
        raise ValueError(
            f"{shift}, which is not seen in its padding of {reader.layer.padding}: no bias takes that off. "
            f"Let new channels be read by the centre of the kernel (RestrictedConv2dGrowingModule), do "
            f"without padding, or use a function that is 0 at 0 before it."
        )
    return value * omega.flatten(1).sum(1)


def check_offsets(consumer: Consumer, extension: Extension) -> None:
    """Raise a ValueError where what new neurons give at rest cannot be taken off."""
    for reader, read in zip(consumer.readers, extension.inputs, strict=True):
        if read.omega is not None:
            offset(reader, read.omega)


def _reads_beyond(layer: nn.Linear | nn.Conv2d, omega: Tensor) -> bool:
    """Whether a tap with a weight reads the zeros around the map somewhere."""
    if isinstance(layer, nn.Linear) or layer.padding_mode != "zeros" or layer.padding == "valid":
        return False
    used = omega.abs().sum((0, 1)) > 0
    for axis in (0, 1):
        (taps,) = used.any(1 - axis).nonzero(as_tuple=True)
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        before, behind = _pads(layer, axis, reach)
        for tap in taps.tolist():
            at = tap * layer.dilation[axis]
            if before > at or behind > reach - at:
                return True
    return False


def _pads(layer: nn.Conv2d, axis: int, reach: int) -> tuple[int, int]:
    if isinstance(layer.padding, str):  # 'same'
        return reach // 2, reach - reach // 2
    return layer.padding[axis], layer.padding[axis]
