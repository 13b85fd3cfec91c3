"""The floor of a ranking: a connection in and out of every unit, so that none cuts input from output.

A *unit* is an output of a layer (a neuron, a channel) or an input that it reads. Of all ways to keep one
connection to each, the strongest are taken: for every output its strongest connection, then for every input
without one its strongest. They take the places of the weakest that would have lived; counts stay as they
are. So outputs x inputs never need more than outputs + inputs - 1 connections. Where fewer live, one
connection serves an output and an input at once as far as possible, and outputs come first.

Strengths stand here as ranks: different whole numbers, 0 the strongest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from growcore.sparse.units import EVERY_UNIT, Units


def bare_units(alive: Tensor, units: Units = EVERY_UNIT) -> int:
    """How many units of a layer have no connection alive.

    Args:
        alive: bool, shaped like the weight.
        units: what it joins.
    """
    needs = _Needs.of(alive, units)
    return int(needs.outputs.sum()) + int(needs.inputs.sum())


def ranks_of(strengths: Tensor) -> Tensor:
    """Place of each entry among all, strongest first; equal ones by index, the lower first."""
    order = strengths.reshape(-1).argsort(descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device)
    return ranks.reshape(strengths.shape)


def choose(
    ranks: Sequence[Tensor],
    among: Sequence[Tensor],
    number: int,
    units: Sequence[Units],
    beside: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """The strongest connections of one or several layers, with the floor of each layer among them.

    Args:
        ranks: of the connections of all layers together: every number below their count once.
        among: bool, the candidates of each layer.
        number: how many are chosen in all; all candidates where they are fewer.
        units: what each layer joins.
        beside: bool, connections that live anyway: what they serve needs nothing more.

    Returns:
        bool, one tensor for each layer.
    """
    beside = beside or [torch.zeros_like(mask) for mask in among]
    layers = list(zip(ranks, among, units, beside, strict=True))
    size = sum(mask.numel() for mask in among)
    flat_ranks, flat_among = _flat(ranks), _flat(among)
    chosen = _first(flat_ranks, flat_among, number, size)
    served = _split_like(chosen, among)
    if not any(bare_units(b | mask, u) for mask, (_, _, u, b) in zip(served, layers, strict=True)):
        return served
    needed = torch.cat([part for layer in layers for part in _cover(*layer, economical=False)])
    if len(needed) > number:
        phases = zip(*(_cover(*layer, economical=True) for layer in layers), strict=True)
        needed = torch.cat([torch.cat(phase).sort().values for phase in phases])[:number]
    places = size + flat_ranks
    is_needed = torch.zeros(size, dtype=torch.bool, device=needed.device)
    is_needed[needed] = True
    places = torch.where(is_needed[flat_ranks], flat_ranks, places)
    return _split_like(_first(places, flat_among, number, 2 * size), among)


def choose_within(ranks: Tensor, scopes: Tensor, num_alive: int, units: Units) -> Tensor:
    """The strongest of each scope of a layer, with the floor among them as far as the scopes have room.

    Args:
        ranks: of all connections, all different.
        scopes: number of the scope of each connection; all scopes have equally many.
        num_alive: how many of each scope live.
        units: what the layer joins.

    Returns:
        bool, shaped like the ranks.
    """
    alive = places_within(ranks, scopes) < num_alive
    for economical in (False, True):
        if not bare_units(alive, units):
            return alive
        needed = _floor_within(ranks, scopes, num_alive, units, economical=economical)
        alive = places_within(torch.where(needed, ranks, ranks.numel() + ranks), scopes) < num_alive
    return alive


def places_within(values: Tensor, scopes: Tensor) -> Tensor:
    """Place of each value within its scope, lowest first; values are different whole numbers from 0 on."""
    size = values.numel() // (int(scopes.max()) + 1)
    order = (scopes * (int(values.max()) + 1) + values).reshape(-1).argsort()
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device) % size
    return places.reshape(values.shape)


def _floor_within(ranks: Tensor, scopes: Tensor, num_alive: int, units: Units, *, economical: bool) -> Tensor:
    """Connections, at most `num_alive` of a scope, that serve as many units as they can."""
    size = ranks.numel()
    needed = torch.zeros_like(ranks, dtype=torch.bool)
    while True:
        counts = torch.zeros(int(scopes.max()) + 1, dtype=torch.int64, device=ranks.device)
        counts.scatter_add_(0, scopes.reshape(-1), needed.reshape(-1).long())
        room = ~needed & (counts < num_alive)[scopes]
        found = torch.cat(_cover(ranks, room, units, needed, economical=economical))
        if not len(found):
            return needed
        wanted = needed | torch.isin(ranks, found)
        # What is needed already stays; of what was found the strongest that still have room in their scope.
        order = torch.where(needed, ranks, size + ranks)
        order = torch.where(wanted, order, 2 * size + ranks)
        needed = wanted & (places_within(order, scopes) < num_alive)


@dataclass(slots=True)
class _Needs:
    """Which units still need a connection; g groups of outputs and inputs."""

    outputs: Tensor  # bool, g x O/g
    inputs: Tensor  # bool, g x C/g

    @classmethod
    def of(cls, alive: Tensor, units: Units) -> _Needs:
        if alive.dim() < 2 or alive.numel() == 0:  # not a layer's weight: no units are known
            none = alive.new_zeros(1, 0)
            return cls(none, none)
        has = _pairs(alive, units).any(3)
        inputs = ~has.any(1)
        return cls(~has.any(2), inputs if units.read else torch.zeros_like(inputs))


def _cover(
    ranks: Tensor, among: Tensor, units: Units, beside: Tensor, *, economical: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Ranks of connections that serve the units without any, in the order in which they matter.

    First, if economical, those that serve an output and an input at once: the strongest to both, again and
    again. Then the strongest of each output, then of each input.
    """
    needs = _Needs.of(beside, units)
    absent = int(ranks.max()) + 1 if ranks.numel() else 0
    none = ranks.new_zeros(0)
    if not needs.outputs.any() and not needs.inputs.any():
        return none, none, none
    pairs = _pairs(torch.where(among, ranks, absent), units).amin(3)  # g x O/g x C/g
    both = list(_serving_both(pairs, needs, absent)) if economical else []
    outputs = _strongest_of(pairs, 2, needs.outputs, absent)
    needs.inputs &= ~torch.isin(pairs, outputs).any(1)
    inputs = _strongest_of(pairs, 1, needs.inputs, absent)
    return torch.cat([none, *both]).sort().values, outputs, inputs


def _serving_both(pairs: Tensor, needs: _Needs, absent: int) -> Iterator[Tensor]:
    while True:
        open_ = needs.outputs[:, :, None] & needs.inputs[:, None, :]
        ranks = torch.where(open_, pairs, absent)
        mutual = (ranks == ranks.amin(2, keepdim=True)) & (ranks == ranks.amin(1, keepdim=True))
        mutual &= ranks < absent
        if not mutual.any():
            return
        yield ranks[mutual]
        needs.outputs = needs.outputs & ~mutual.any(2)
        needs.inputs = needs.inputs & ~mutual.any(1)


def _strongest_of(pairs: Tensor, dim: int, needy: Tensor, absent: int) -> Tensor:
    """Ranks of the strongest connection of each needy unit, strongest first."""
    best = pairs.amin(dim)[needy]
    return best[best < absent].sort().values


def _pairs(values: Tensor, units: Units) -> Tensor:
    """Groups x O/g x C/g x (kernel cells) of values shaped like a weight."""
    outputs, *rest = values.shape
    groups = units.groups
    return values.reshape(groups, outputs // groups, rest[0], -1)


def _first(places: Tensor, among: Tensor, number: int, end: int) -> Tensor:
    """bool: the `number` candidates of lowest place."""
    order = torch.where(among, places, end + places).argsort()[:number]
    chosen = torch.zeros_like(among)
    chosen[order] = True
    return chosen & among


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _split_like(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(flat, [tensor.numel() for tensor in like])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
