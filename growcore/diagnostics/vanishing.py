"""How many multiplications by random matrices a float32 signal survives, measured and predicted.

A product of n x n matrices with independent entries of deviation s grows by g = s sqrt(n) per factor,
by g / sqrt(2) where a ReLU follows each. It is lost when every entry has become 0 (underflow, below
2^-150 float32 rounds to 0) or one is no longer finite (overflow, from 2^128 on).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from growcore.config import Activation
from growcore.diagnostics.ensemble import Estimate
from growcore.networks.initialization import initialize

UNDERFLOW = 2.0**-150  # half the smallest float32 above 0
OVERFLOW = 2.0**128

DrawMatrix = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Lost:
    """Where a product of matrices lost its signal."""

    index: int  # multiplications survived: the product of index + 1 matrices was the last good one
    cause: Literal["underflow", "overflow"]


def uniform_matrix(size: int, bound: float, generator: torch.Generator | None = None) -> DrawMatrix:
    """Draws size x size matrices with entries from U(-bound, bound), of deviation bound / sqrt(3)."""
    return lambda: torch.empty(size, size).uniform_(-bound, bound, generator=generator)


def normal_matrix(size: int, std: float, generator: torch.Generator | None = None) -> DrawMatrix:
    """Draws size x size matrices with entries from N(0, std^2)."""
    return lambda: torch.empty(size, size).normal_(0, std, generator=generator)


def scheme_matrix(
    size: int,
    scheme: str,
    activation: Activation,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
) -> DrawMatrix:
    """Draws the size x size weights of a linear layer, initialised by one of our schemes."""

    def draw() -> Tensor:
        layer = nn.Linear(size, size, bias=False)
        initialize(layer, scheme, activation, gain, generator)
        return layer.weight.detach()

    return draw


def multiplications_until_lost(
    draw: DrawMatrix, *, relu: bool = False, fresh: bool = True, max_multiplications: int = 500
) -> Lost | None:
    """Multiply a random matrix from the left again and again until the product is lost.

    Args:
        draw: gives the matrices, square and of one size.
        relu: negative entries become 0 after every multiplication.
        fresh: every factor is drawn anew; otherwise the first matrix is its own factor each time.
        max_multiplications: how often to multiply at most.

    Returns:
        Where and how the signal was lost; None if it survived all multiplications.
    """
    matrix = product = draw()
    for index in range(max_multiplications):
        product = (draw() if fresh else matrix) @ product
        if relu:
            product = product.clamp_min(0)
        # The deviation of finite entries can itself overflow, so every entry is looked at.
        if not torch.isfinite(product).all():
            return Lost(index, "overflow")
        if not product.any():
            return Lost(index, "underflow")
    return None


def predicted_multiplications(std: float, size: int, *, relu: bool = False) -> float:
    """The index at which `multiplications_until_lost` is expected to stop.

    Args:
        std: deviation of the matrices' entries.
        size: rows of the square matrices.
        relu: negative entries become 0 after every multiplication.

    Returns:
        (log limit - log std) / log g - 1 with the limit g leads to; infinite where g = 1.

    Raises:
        ValueError: std is not positive or size below 1.
    """
    if not (std > 0 and math.isfinite(std)) or size < 1:
        raise ValueError(
            f"matrices need a positive deviation and a size of at least 1; got std={std}, size={size}. "
            "Use for example std=0.01, size=512."
        )
    log_gain = math.log(std * math.sqrt(size / 2 if relu else size))
    if abs(log_gain) < 1e-9:
        return math.inf
    limit = UNDERFLOW if log_gain < 0 else OVERFLOW
    return (math.log(limit) - math.log(std)) / log_gain - 1


@dataclass(frozen=True, slots=True)
class ProductMoments:
    """Moments of the entries of sigma(W x) over random W and x ~ N(0, 1)."""

    mean: Estimate
    second: Estimate


def product_moments(
    draw: DrawMatrix, num_repeats: int, *, relu: bool = False, generator: torch.Generator | None = None
) -> ProductMoments:
    """Mean and second moment of x -> W x, one fresh W and x ~ N(0, 1) per repeat.

    Expected for entries of deviation s: 0 and n s^2; with a ReLU s sqrt(n / 2 pi) and n s^2 / 2.

    Raises:
        ValueError: fewer than 2 repeats, which leave no standard error.
    """
    if num_repeats < 2:
        raise ValueError(f"a standard error needs at least 2 repeats; got {num_repeats}. Use 100.")
    means, seconds = [], []
    for _ in range(num_repeats):
        matrix = draw()
        y = matrix @ torch.randn(matrix.shape[1], generator=generator)
        y = y.clamp_min(0) if relu else y
        means.append(y.mean())
        seconds.append(y.square().mean())
    return ProductMoments(_estimate(means), _estimate(seconds))


def _estimate(values: list[Tensor]) -> Estimate:
    stacked = torch.stack(values).double()
    return Estimate(float(stacked.mean()), float(stacked.std()) / math.sqrt(len(values)))
