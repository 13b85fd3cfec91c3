"""The scaling factor of growths: tried on copies of the network, with batches that gave no statistics."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from growcore.data import Batch
from growcore.edits.surgery import Edit, EditKind, apply
from growcore.growth import GrowthProposal, MergeProposal
from growcore.networks.modes import evaluating


@dataclass(frozen=True, slots=True, eq=False)
class LineSearch:
    """Mean loss without the edits, and with them at the scaling factor that was best."""

    scaling_factor: float  # 0: no factor lowered the loss, so the edits are better left
    loss_before: float
    loss_after: float
    edits: list[Edit]  # the edits at that factor; empty at 0

    @property
    def decrease(self) -> float:
        return self.loss_before - self.loss_after


def line_search(
    model: nn.Module,
    edits: Sequence[Edit],
    batches: Sequence[Batch],
    factors: Sequence[float],
    may_refuse: bool = True,
) -> LineSearch:
    """The scaling factor, common to all edits, at which copies of the network have the smallest mean loss.

    Args:
        model: copied for each factor, so that what is tried is exactly what would be applied.
        edits: growths that can be applied together; those of kind skip go along.
        batches: training batches that gave no statistics.
        factors: positive scaling factors to try.
        may_refuse: whether the answer may be 0 when no factor lowers the loss. New neurons that know
            nothing of the loss raise it at first; a search that may refuse would never let them in.
    """
    if all(edit.kind == EditKind.skip for edit in edits):
        return LineSearch(0.0, 0.0, 0.0, list(edits))  # nothing grows, so no loss is looked at
    before = mean_loss(model, batches)
    best = LineSearch(0.0, before, before if may_refuse else math.inf, [])
    for factor in factors:
        scaled = [scale(edit, factor) for edit in edits]
        trial = copy.deepcopy(model)
        apply(scaled, trial)
        loss = mean_loss(trial, batches)
        if loss < best.loss_after:
            best = LineSearch(factor, before, loss, scaled)
    return best


def scale(edit: Edit, factor: float) -> Edit:
    """A growth at another scaling factor; an edit of kind skip stays as it is."""
    if edit.kind == EditKind.skip:
        return edit
    assert isinstance(edit.proposal, GrowthProposal | MergeProposal)
    return dataclasses.replace(edit, proposal=dataclasses.replace(edit.proposal, gamma=factor))


def scaling_factors(largest: float, num: int = 6) -> list[float]:
    """What a line search tries: `largest`, and half of it `num` - 1 times over."""
    return [largest / 2**power for power in range(num)]


def mean_loss(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Mean cross-entropy in eval mode."""
    with evaluating(model), torch.no_grad():
        total = sum(functional.cross_entropy(model(x), y, reduction="sum") for x, y in batches)
    return float(total) / sum(len(y) for _, y in batches)
