"""Rules that move connections: drop some that are alive, regrow others; pure functions to a PruneMask.

They rank a whole layer at once and keep its number of connections, except gradual pruning, which
lowers it. Equal strengths are ranked by index: the lower index is the stronger. The last connection of an
output or an input is dropped only where its place is taken by a stronger one that serves it too, and what has
none is served first by what is regrown (`growcore.sparse.floor`).

[Mocanu2018] Scalable training of artificial neural networks with adaptive sparse connectivity, Nature
Communications 9, arXiv:1707.04780. [Evci2020] Rigging the Lottery, ICML 2020, arXiv:1911.11134.
[Zhu2017] To prune, or not to prune, arXiv:1710.01878.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from growcore.sparse.floor import choose, ranks_of
from growcore.sparse.selection import PruneMask, check_finite
from growcore.sparse.strength import magnitude, random
from growcore.sparse.units import EVERY_UNIT, Units


def set_evolution(
    weight: Tensor,
    alive: Tensor,
    fraction: float,
    generator: torch.Generator | None = None,
    units: Units = EVERY_UNIT,
) -> PruneMask:
    """SET [Mocanu2018]: drop the smallest weights, regrow as many inactive connections at random.

    Args:
        weight: of the layer.
        alive: bool, shaped like it.
        fraction: of the connections alive that is dropped; fewer where fewer are inactive.
        generator: of the random choice; None: torch's global one. The choice is the same on every rank.
        units: what the connections join.

    Raises:
        ValueError: fraction outside [0, 1], shapes that differ, weights that are not finite.
    """
    return exchange(alive, magnitude(weight), random(weight, generator), fraction, units=units)


def rigl(
    weight: Tensor, alive: Tensor, gradient: Tensor, fraction: float, units: Units = EVERY_UNIT
) -> PruneMask:
    """RigL [Evci2020]: drop the smallest weights, regrow by the gradient of the dense weight, from zero.

    What was just dropped may return, with weight zero, if its gradient is large.

    Args:
        weight: of the layer.
        alive: bool, shaped like it.
        gradient: absolute gradients, pruned connections included (`strength="gradient"`).
        fraction: of the connections alive that is dropped; cosine-decayed over training by `Schedule`.
        units: what the connections join.

    Raises:
        ValueError: as `set_evolution`.
    """
    mask = exchange(alive, magnitude(weight), gradient, fraction, regrow_dropped=True, units=units)
    return PruneMask(keep=mask.keep, restart=mask.restart, prune=mask.prune, restart_at_zero=True)


def hebbian_exchange(
    strengths: Tensor, alive: Tensor, fraction: float, units: Units = EVERY_UNIT
) -> PruneMask:
    """One-to-one: drop the weakest connections alive, regrow as many of the strongest inactive ones.

    Args:
        strengths: of all connections, pruned ones included (`coactivation`, a correlation).
        alive: bool, shaped like them.
        fraction: of the connections alive that is dropped; fewer where fewer are inactive.
        units: what the connections join.

    Raises:
        ValueError: as `set_evolution`.
    """
    return exchange(alive, strengths, strengths, fraction, units=units)


def exchange(
    alive: Tensor,
    drop_by: Tensor,
    grow_by: Tensor,
    fraction: float,
    *,
    regrow_dropped: bool = False,
    units: Units = EVERY_UNIT,
) -> PruneMask:
    """Drop the weakest share of the connections alive and regrow as many others.

    Args:
        alive: bool.
        drop_by: strengths; the lowest among those alive are dropped.
        grow_by: strengths; the highest among the candidates are regrown.
        fraction: of the connections alive, in [0, 1]; floor(fraction * alive + 1e-9) are dropped, and no
            more than there are candidates.
        regrow_dropped: whether what was just dropped is a candidate beside what was inactive.
        units: what the connections join.

    Raises:
        ValueError: fraction outside [0, 1], shapes that differ, strengths that are not finite.
    """
    _check(alive, fraction, drop_by, grow_by)
    num_alive = int(alive.sum())
    num_exchanged = math.floor(fraction * num_alive + 1e-9)
    if not regrow_dropped:
        num_exchanged = min(num_exchanged, alive.numel() - num_alive)
    keep = strongest(drop_by, alive, num_alive - num_exchanged, units)
    candidates = ~keep if regrow_dropped else ~alive
    restart = strongest(grow_by, candidates, num_exchanged, units, beside=keep)
    return PruneMask(keep=keep, restart=restart, prune=~(keep | restart))


def gradual_magnitude(weight: Tensor, alive: Tensor, density: float, units: Units = EVERY_UNIT) -> PruneMask:
    """Gradual magnitude pruning [Zhu2017]: keep the largest weights alive; nothing is regrown.

    Args:
        weight: of the layer.
        alive: bool, shaped like it.
        density: share of all connections alive afterwards (cubic over training by `Schedule`): exactly
            max(floor(density * n + 1e-9), 1) of n, or all that are alive where these are fewer.
        units: what the connections join.

    Raises:
        ValueError: density outside [0, 1], shapes that differ, weights that are not finite.
    """
    strengths = magnitude(weight)
    _check(alive, density, strengths)
    num_left = max(math.floor(density * alive.numel() + 1e-9), 1)
    keep = strongest(strengths, alive, min(num_left, int(alive.sum())), units)
    return PruneMask(keep=keep, restart=torch.zeros_like(keep), prune=~keep)


def strongest(
    strengths: Tensor, among: Tensor, number: int, units: Units = EVERY_UNIT, beside: Tensor | None = None
) -> Tensor:
    """The strongest candidates of a layer, with the floor of its units among them.

    Args:
        strengths: shaped like the weight.
        among: bool, the candidates.
        number: how many; all of them where they are fewer.
        units: what the connections join.
        beside: bool, connections that live anyway; what they serve needs nothing more.

    Returns:
        bool, shaped like the weight.
    """
    (chosen,) = choose([ranks_of(strengths)], [among], number, [units], None if beside is None else [beside])
    return chosen


def ranks_by_lot(strengths: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Place of each entry, strongest first; between equal ones a draw decides, on all ranks alike."""
    lots = random(strengths, generator).reshape(-1).argsort(stable=True)
    order = lots[strengths.reshape(-1)[lots].argsort(descending=True, stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device)
    return ranks.reshape(strengths.shape)


def _check(alive: Tensor, share: float, *strengths: Tensor) -> None:
    if not 0 <= share <= 1:
        raise ValueError(
            f"a fraction of connections must lie in [0, 1]; got {share}. Use 0 to change nothing, or a "
            "density of 1 to keep all."
        )
    if alive.dtype != torch.bool or any(tensor.shape != alive.shape for tensor in strengths):
        raise ValueError(
            f"alive is a bool tensor and strengths have its shape; got {alive.dtype} of shape "
            f"{tuple(alive.shape)} and strengths of {[tuple(tensor.shape) for tensor in strengths]}. "
            "Pass the layer's mask."
        )
    for tensor in strengths:
        check_finite(tensor)
