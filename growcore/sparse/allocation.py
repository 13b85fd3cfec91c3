"""How many connections each layer of a network gets at a given overall density.

[Mocanu2018] Scalable training of artificial neural networks with adaptive sparse connectivity, Nature
Communications 9, arXiv:1707.04780 (Erdos-Renyi); [Evci2020] Rigging the Lottery, ICML 2020,
arXiv:1911.11134, appendix (Erdos-Renyi-Kernel).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from growcore.config import suggest_name
from growcore.sparse.floor import choose
from growcore.sparse.units import EVERY_UNIT, Units

METHODS = ("uniform", "erk")


@dataclass(frozen=True, slots=True)
class Allocation:
    """Whole numbers of connections for the layers of a network."""

    num_alive: tuple[int, ...]  # for each layer, at least 1
    sizes: tuple[int, ...]  # all connections of each layer

    @property
    def densities(self) -> tuple[float, ...]:
        """Achieved share of each layer's connections."""
        return tuple(alive / size for alive, size in zip(self.num_alive, self.sizes, strict=True))

    @property
    def density(self) -> float:
        """Achieved share of all connections; differs from the asked one by rounding only."""
        return sum(self.num_alive) / sum(self.sizes)


def allocate(shapes: Sequence[Sequence[int]], density: float, method: str = "erk") -> Allocation:
    """Share out density * (all connections) over layers.

    Args:
        shapes: weight shapes, outputs x inputs x kernel.
        density: share of all connections that is alive, in (0, 1].
        method: `uniform` gives every layer this density; `erk` gives layer l a density proportional to
            (sum of its dimensions) / (product of them), so that small layers stay denser; layers that
            would pass 1 are dense and the others share the rest.

    Raises:
        ValueError: an unknown method, no layer, a density out of range.
    """
    if method not in METHODS:
        raise ValueError(f"Unknown allocation {method!r}. {suggest_name(method, METHODS)}")
    if not shapes or not 0 < density <= 1:
        raise ValueError(
            f"an allocation needs at least one layer and a density in (0, 1]; got {len(shapes)} layers and "
            f"density={density}. Use density=1 for a dense network."
        )
    sizes = tuple(math.prod(shape) for shape in shapes)
    densities = [density] * len(shapes) if method == "uniform" else erk_densities(shapes, density)
    num_alive = tuple(max(math.floor(d * n + 0.5), 1) for d, n in zip(densities, sizes, strict=True))
    return Allocation(num_alive, sizes)


def erk_densities(shapes: Sequence[Sequence[int]], density: float) -> list[float]:
    """Erdos-Renyi-Kernel densities of layers, before rounding to whole connections."""
    sizes = [math.prod(shape) for shape in shapes]
    raw = [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)]
    dense: set[int] = set()
    while True:
        budget = density * sum(sizes) - sum(sizes[i] for i in dense)
        others = [i for i in range(len(sizes)) if i not in dense]
        if not others:
            return [1.0] * len(sizes)
        scale = budget / sum(raw[i] * sizes[i] for i in others)
        over = {i for i in others if scale * raw[i] > 1}
        if not over:
            return [1.0 if i in dense else scale * raw[i] for i in range(len(sizes))]
        dense |= over


def random_mask(
    shape: Sequence[int],
    num_alive: int,
    generator: torch.Generator | None = None,
    units: Units = EVERY_UNIT,
) -> Tensor:
    """A bool tensor with exactly `num_alive` True entries at random positions, on the CPU.

    Args:
        shape: of the weight.
        num_alive: how many; every unit has one of them, as far as there are that many.
        generator: of the draw; None: torch's global one.
        units: what the connections join.

    Raises:
        ValueError: more of them than entries, or fewer than 0.
    """
    size = math.prod(shape)
    if not 0 <= num_alive <= size:
        raise ValueError(
            f"a mask of shape {tuple(shape)} has 0 to {size} connections alive; got num_alive={num_alive}. "
            "Take it from allocate(...)."
        )
    device = generator.device if generator is not None else "cpu"
    order = torch.randperm(size, generator=generator, device=device).cpu()
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(size)
    ranks = ranks.reshape(tuple(shape))
    (mask,) = choose([ranks], [torch.ones_like(ranks, dtype=torch.bool)], num_alive, [units])
    return mask
