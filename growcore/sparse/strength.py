"""Connection strengths: pure functions of tensors; no modules.

A strength says how much a connection matters. It has the shape of the layer's weight; only its order
within a pruning scope counts, so every scale is fine.

Shapes: N batch, C in, O out, HW input map, PQ output map, KL kernel; for linear layers C and O only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from growcore.config import suggest_name
from growcore.sparse.geometry import Geometry
from growcore.sparse.ranks import same_on_every_rank


def coactivation(geometry: Geometry, x: Tensor, y: Tensor, threshold: float = 0.5) -> Tensor:
    """How often each connection joins an active input to an active output.

    Args:
        geometry: how the layer joins x to y.
        x: layer input, before padding (N x C x H x W, or ... x C for a linear layer).
        y: layer output, before the nonlinearity (N x O x P x Q, or ... x O).
        threshold: active means sigmoid(value) > threshold, in [0.5, 1), so that zero padding never is.

    Returns:
        float32 frequencies in [0, 1] over samples and positions, shaped like the weight.
        They are exact below 2^24 samples times positions; a silent unit scores 0.

    Raises:
        ValueError: a threshold outside [0.5, 1).
    """
    check_threshold(threshold)
    # sigmoid(v) > t exactly where v > log(t / (1 - t)): one comparison, no exponential.
    level = math.log(threshold / (1 - threshold))
    with _full_precision(x):
        counts = geometry.weight_gradient(_indicator(x, level), _indicator(y, level))
        # Some GPU algorithms transform their operands; counts are whole numbers all the same.
        return counts.round_().div_(geometry.num_terms(y))


def correlation(geometry: Geometry, x: Tensor, y: Tensor) -> Tensor:
    """How strongly input tap and output move together over the batch, position by position.

    Args:
        geometry: how the layer joins x to y.
        x: layer input, before padding; dimensions between the first and the last of a linear layer's
            input are positions.
        y: layer output.

    Returns:
        |Pearson correlation over the batch| at each output position, averaged over positions; in [0, 1],
        at least float32, shaped like the weight. It is 0 where the tap or the output is constant.

    Raises:
        ValueError: fewer than 3 samples, over which every correlation is 1 or 0.
    """
    conv, x, y = geometry.as_convolution(widen(x), widen(y))
    if x.shape[0] < 3:
        raise ValueError(
            f"correlation needs a batch of at least 3, as fewer samples always correlate fully; "
            f"got {x.shape[0]}. Drop the last, smaller batch, or use strength='pooled_correlation'."
        )
    taps_PQGNT = conv.taps(_standardised(x).contiguous(memory_format=torch.channels_last))
    num_outputs = y.shape[1] // conv.groups
    y_PQGON = _standardised(y).unflatten(1, (conv.groups, num_outputs)).permute(3, 4, 1, 2, 0).contiguous()
    P, Q, G, N = taps_PQGNT.shape[:4]
    T = taps_PQGNT.shape[4:].numel()
    total = x.new_zeros(G, num_outputs, T)
    with _full_precision(x):
        for rows, columns in _blocks(P, Q, _CHUNK_ENTRIES // total.numel()):
            taps = taps_PQGNT[rows, columns].reshape(-1, N, T)
            products = torch.bmm(y_PQGON[rows, columns].reshape(-1, num_outputs, N), taps).abs_()
            total += products.reshape(-1, G, num_outputs, T).sum(0)
    mean_OKLC = (total / (P * Q)).reshape(y.shape[1], *taps_PQGNT.shape[4:])
    return geometry.weight_shaped(mean_OKLC.permute(0, 3, 1, 2).contiguous())


def pooled_correlation(geometry: Geometry, x: Tensor, y: Tensor) -> Tensor:
    """How strongly input tap and output move together over samples and positions at once.

    Args:
        geometry: how the layer joins x to y.
        x: layer input, before padding; what padding adds takes part.
        y: layer output.

    Returns:
        |Pearson correlation| over all pairs of sample and position; in [0, 1], at least float32, shaped
        like the weight. It is 0 where the tap or the output is constant.

    Raises:
        ValueError: fewer than 3 pairs.
    """
    num_terms = geometry.num_terms(y)
    if num_terms < 3:
        raise ValueError(
            f"pooled_correlation needs at least 3 pairs of sample and position, as fewer always correlate "
            f"fully; got {num_terms}. Use a larger batch, or strength='coactivation'."
        )
    conv, x, y = geometry.as_convolution(widen(x), widen(y))
    x_deviation = conv.tap_deviations(x).unflatten(0, (conv.groups, -1))
    x_deviation = x_deviation.repeat_interleave(y.shape[1] // conv.groups, dim=0)
    y_variance, y_mean = torch.var_mean(y, dim=(0, 2, 3), correction=0, keepdim=True)
    y_deviation = y_variance.sqrt().reshape(-1, 1, 1, 1)
    with _full_precision(x):
        # The outputs have mean 0, so that of the taps does not matter; less of it rounds better.
        covariance = conv.weight_gradient(x - x.mean((0, 2, 3), keepdim=True), y - y_mean) / num_terms
    defined = (x_deviation > 0) & (y_deviation > 0)
    correlations = torch.where(defined, covariance.abs() / (x_deviation * y_deviation), 0)
    return geometry.weight_shaped(correlations.clamp_(max=1))


def gradient(geometry: Geometry, x: Tensor, gradient_of_y: Tensor) -> Tensor:
    """Absolute gradient of the loss with respect to every weight, pruned ones included.

    Args:
        geometry: how the layer joins x to its output y.
        x: layer input, before padding.
        gradient_of_y: dL/dy.

    Returns:
        |dL/dw|, at least float32, shaped like the weight; all 0 for a batch whose gradient overflowed,
        as a loss scaler leaves such a step out.
    """
    with _full_precision(x):
        strengths = geometry.weight_gradient(widen(x), widen(gradient_of_y)).abs()
    return torch.where(torch.isfinite(strengths).all(), strengths, 0)


def random(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Strengths drawn uniformly from [0, 1): the baseline that every other one is measured against.

    They are the same on every rank of a process group.
    """
    device = generator.device if generator is not None else weight.device
    drawn = torch.rand(weight.shape, generator=generator, device=device)
    return same_on_every_rank(drawn.to(weight.device))


def magnitude(weight: Tensor) -> Tensor:
    """Absolute weights, in float32 or wider."""
    return widen(weight.detach().abs())


def check_threshold(threshold: float) -> None:
    """Raise ValueError for an activity threshold outside [0.5, 1)."""
    if not 0.5 <= threshold < 1:
        raise ValueError(
            f"activity_threshold must lie in [0.5, 1): active means sigmoid(value) > threshold, and "
            f"padding is never active; got activity_threshold={threshold}. "
            "Use 0.5 to call every positive value active."
        )


def widen(x: Tensor) -> Tensor:
    """The tensor in float32, or as it is where that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Outside autocast; entering that context costs as much as a small layer's comparison."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


_CHUNK_ENTRIES = 1 << 18  # of a block of products: 1 MiB, which a core's cache holds


def _indicator(x: Tensor, level: float) -> Tensor:
    """1.0 where x > level, else 0.0, in float32; comparing into floats saves the pass that converts."""
    x = x.detach() if x.requires_grad else x
    return torch.gt(x, level, out=torch.empty_like(x, dtype=torch.float32))


def _standardised(x_NCHW: Tensor) -> Tensor:
    """Each position with mean 0 and length 1 over the batch; 0 where it is constant."""
    mean = x_NCHW.mean(0)
    centred = x_NCHW - mean
    length = centred.square().sum(0).sqrt_()
    # A constant ends a rounding error off its mean, which must not be blown up to length 1.
    rounding = 4 * torch.finfo(x_NCHW.dtype).eps * math.sqrt(x_NCHW.shape[0]) * mean.abs_()
    return centred.mul_(torch.where(length > rounding, 1 / length, 0))


def _blocks(num_rows: int, num_columns: int, positions: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of at most `positions` output positions (at least one), whole rows where they fit."""
    rows = max(positions // num_columns, 1)
    columns = min(max(positions, 1), num_columns)
    for row in range(0, num_rows, rows):
        for column in range(0, num_columns, columns):
            yield slice(row, row + rows), slice(column, column + columns)


Measure = Callable[[Geometry, Tensor, Tensor, float], Tensor]
Rank = Callable[[Tensor, Tensor, torch.Generator | None], Tensor]


@dataclass(frozen=True, slots=True)
class Strength:
    """When a layer measures a strength and what it ranks by when connections progress."""

    rank: Rank  # (what the layer has accumulated, its weight, generator) -> strengths
    measure: Measure | None = None  # (geometry, input, observed, threshold) -> what is accumulated
    observes_gradient: bool = False  # observed is the gradient of the output, not the output


def _accumulated(accumulated: Tensor, weight: Tensor, generator: torch.Generator | None) -> Tensor:
    return accumulated


STRENGTHS: dict[str, Strength] = {
    "coactivation": Strength(rank=_accumulated, measure=coactivation),
    "correlation": Strength(rank=_accumulated, measure=lambda g, x, y, _: correlation(g, x, y)),
    "pooled_correlation": Strength(rank=_accumulated, measure=lambda g, x, y, _: pooled_correlation(g, x, y)),
    "gradient": Strength(
        rank=_accumulated, measure=lambda g, x, y, _: gradient(g, x, y), observes_gradient=True
    ),
    "magnitude": Strength(rank=lambda accumulated, weight, _: magnitude(weight)),
    "magnitude_x_coactivation": Strength(
        rank=lambda accumulated, weight, _: magnitude(weight) * accumulated, measure=coactivation
    ),
    "random": Strength(rank=lambda accumulated, weight, generator: random(weight, generator)),
}


def find_strength(name: str) -> Strength:
    """A strength by name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in STRENGTHS:
        raise ValueError(f"Unknown strength {name!r}. {suggest_name(name, tuple(STRENGTHS))}")
    return STRENGTHS[name]
