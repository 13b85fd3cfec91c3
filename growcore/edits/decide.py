"""When, where and how many: decisions as values, with reasons; nothing here changes a network.

A policy sees observations and says which edits it wants. Maths and methods stand in `growth` and `sparse`,
gathering in `observe`, acting in `surgery`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from growcore.config import GrowthConfig, GrowthWhere, PruningConfig, registry
from growcore.config.timing import Progress, is_due
from growcore.edits.surgery import Edit, EditKind
from growcore.growth import GrowthProposal, MergeProposal, RemovedNeurons
from growcore.growth.methods import GrowthMethod
from growcore.networks.neurons import neurons_to_keep
from growcore.sparse import PruneMask, bare_units
from growcore.sparse.methods import Decision, PruneObservation, PruningMethod


@dataclass(frozen=True, slots=True, eq=False)
class GrowthObservation:
    """What one layer would gain, and what that would bring."""

    layer: str
    width: int  # neurons now
    proposal: GrowthProposal | MergeProposal | None  # None: no neurons would be of use
    improvement: float  # predicted first-order decrease of the mean loss per squared scaling factor
    flops_per_neuron: int  # forward FLOPs a sample that each new neuron adds
    refusal: str = ""  # why nothing is proposed

    @property
    def improvement_per_flop(self) -> float:
        assert self.proposal is not None
        return self.improvement / (self.proposal.num_neurons * self.flops_per_neuron)


@dataclass(frozen=True, slots=True, eq=False)
class ActivityObservation:
    """How active the neurons of one hidden layer are."""

    layer: str
    frequencies: Tensor  # of each neuron: share of (image, position) pairs at which its output was not 0
    removable: Tensor  # bool, of each neuron: the others compute the same without it
    num_images: int  # on which that was counted


def growth_is_due(config: GrowthConfig, progress: Progress) -> bool:
    """Whether a growth comes before the next epoch is trained."""
    return config.method != "none" and is_due(
        progress, config.start_epoch, config.every_epochs, config.end_fraction
    )


def pruning_is_due(config: PruningConfig, progress: Progress) -> bool:
    """Whether connections are judged before the next epoch is trained."""
    return config.method != "none" and is_due(
        progress, config.start_epoch, config.every_epochs, config.end_fraction
    )


def removal_is_due(config: PruningConfig, progress: Progress) -> bool:
    """Whether dead neurons are looked for before the next epoch is trained."""
    return config.remove_dead and is_due(
        progress, config.start_epoch, config.every_epochs, config.end_fraction
    )


def neurons_to_add(config: GrowthConfig, width: int, limit: int | None) -> int:
    """Neurons a layer of this width may gain at one growth; 0 when it is as wide as its limit, if it has one.

    `models.max_widths` says what the limit of each layer is.
    """
    if limit is None:
        return config.num_neurons
    return max(min(config.num_neurons, limit - width), 0)


def decide_growth(
    observations: Sequence[GrowthObservation],
    config: GrowthConfig,
    progress: Progress,
    imports: Sequence[str] = (),
) -> list[Edit]:
    """The growths to apply together.

    Args:
        observations: layers that can still gain neurons, from input to output.
        config: `where` chooses among them.
        progress: decides whose turn it is.
        imports: modules in which a method of one's own is looked for.

    Returns:
        One edit a chosen layer, and one that says why for each layer that nothing is proposed for; empty
        when nothing was observed.
    """
    able = [o for o in observations if o.proposal is not None]
    refused = [
        Edit(o.layer, EditKind.skip, None, f"{o.refusal} at epoch {progress.epoch}")
        for o in observations
        if o.proposal is None
    ]
    if not able:
        return refused
    chosen, why = _where(able, config.where, progress)
    method: GrowthMethod = registry.find(registry.GROWTH_METHODS, config.method, imports)
    return [_growth(o, why, config, method, progress) for o in chosen] + refused


def _growth(
    o: GrowthObservation, why: str, config: GrowthConfig, method: GrowthMethod, progress: Progress
) -> Edit:
    assert o.proposal is not None
    return Edit(
        layer=o.layer,
        kind=EditKind.grow,
        proposal=o.proposal,
        reason=f"{why}; {o.proposal.num_neurons} neurons by {config.method} at epoch {progress.epoch}",
        # GradMax's promise, for one, is about the step after, so it is not recorded as one.
        measured={"first_order_improvement": o.improvement} if method.promises else {},
    )


def _where(
    observations: Sequence[GrowthObservation], where: GrowthWhere, progress: Progress
) -> tuple[Sequence[GrowthObservation], str]:
    """Who grows, and why."""
    if where == GrowthWhere.all:
        return observations, "every layer grows"
    if where == GrowthWhere.round_robin:
        return [observations[progress.num_growths % len(observations)]], "its turn"
    if where == GrowthWhere.largest_improvement:
        best = max(observations, key=lambda o: o.improvement)
        return [best], f"largest first-order improvement ({best.improvement:.3g})"
    best = max(observations, key=lambda o: o.improvement_per_flop)
    return [best], f"largest first-order improvement per FLOP ({best.improvement_per_flop:.3g})"


def decide_pruning(
    observations: Sequence[PruneObservation],
    config: PruningConfig,
    progress: Progress,
    generator: torch.Generator | None = None,
    imports: Sequence[str] = (),
) -> list[Edit]:
    """What becomes of the connections of every sparse layer.

    Args:
        observations: all sparse layers, from input to output.
        config: the method and its fractions.
        progress: moves the fractions along `config.schedule`.
        generator: of methods that draw.
        imports: modules in which a method of one's own is looked for.

    Returns:
        One edit a layer; none where the method never changes connections.
    """
    method: PruningMethod = registry.find(registry.PRUNING_METHODS, config.method, imports)
    if method.decide is None or not observations:
        return []
    decision = method.decide(observations, config, progress, generator)
    return _prune_edits(observations, decision, progress)


def decide_allotment(
    observations: Sequence[PruneObservation],
    config: PruningConfig,
    progress: Progress,
    generator: torch.Generator | None = None,
    imports: Sequence[str] = (),
) -> list[Edit]:
    """What becomes of connections after neurons came or went, for methods that keep a density.

    Args:
        observations: all sparse layers, as they are now, from input to output.
        config: as `decide_pruning`, as are progress, generator and imports.
        progress: of the training.
        generator: of methods that draw.
        imports: modules in which a method of one's own is looked for.

    Returns:
        One edit for each layer that loses or gains connections.
    """
    method: PruningMethod = registry.find(registry.PRUNING_METHODS, config.method, imports)
    if method.allot is None or not observations:
        return []
    decision = method.allot(observations, config, progress, generator)
    if decision is None:
        return []
    changed = [not torch.equal(m.alive, o.alive) for o, m in zip(observations, decision.masks, strict=True)]
    edits = _prune_edits(observations, decision, progress)
    return [edit for edit, has_changed in zip(edits, changed, strict=True) if has_changed]


def _prune_edits(
    observations: Sequence[PruneObservation], decision: Decision, progress: Progress
) -> list[Edit]:
    return [
        Edit(o.layer, EditKind.prune, mask, f"{decision.rule} at epoch {progress.epoch}{_bare(o, mask)}")
        for o, mask in zip(observations, decision.masks, strict=True)
    ]


def _bare(observation: PruneObservation, mask: PruneMask) -> str:
    """Says how many units have no connection left, if any."""
    number = bare_units(mask.alive, observation.units)
    return f"; {number} of its inputs and outputs have no connection" if number else ""


def decide_removal(observations: Sequence[ActivityObservation], progress: Progress) -> list[Edit]:
    """Which neurons go: those that were never active and can go; of each layer one at least stays.

    Args:
        observations: hidden layers, from input to output.
        progress: for the reason.

    Returns:
        One edit for each layer that loses neurons.
    """
    edits = []
    for o in observations:
        # A neuron that cannot go counts as active: it may be the one that must stay.
        keep = neurons_to_keep(o.frequencies.masked_fill(~o.removable, 1.0))
        num_dead = int((~keep).sum())
        if num_dead:
            what = f"{num_dead} of {len(keep)} neurons gave 0 on {o.num_images} images"
            reason = f"{what} at epoch {progress.epoch}"
            edits.append(Edit(o.layer, EditKind.remove, RemovedNeurons(keep), reason))
    return edits
