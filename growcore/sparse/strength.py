"""Connection strengths: pure functions of tensors; no modules.

A strength says how much a connection matters. It has the shape of the layer's weight; only its order
within a pruning scope counts, so every scale is fine.

Shapes: N batch, C in, O out, HW input map, PQ output map, KL kernel; for linear layers C and O only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from growcore.config import suggest_name
from growcore.sparse.geometry import Geometry


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
    with torch.autocast(x.device.type, enabled=False):
        counts = geometry.weight_gradient((x > level).float(), (y > level).float())
        # Some GPU algorithms transform their operands; counts are whole numbers all the same.
        return counts.round_() / geometry.num_terms(y)


def random(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Strengths drawn uniformly from [0, 1): the baseline that every other one is measured against."""
    device = generator.device if generator is not None else weight.device
    return torch.rand(weight.shape, generator=generator, device=device).to(weight.device)


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
    "magnitude": Strength(rank=lambda accumulated, weight, generator: magnitude(weight)),
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
