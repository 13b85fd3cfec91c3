"""When, where and how many: decisions as values, with reasons; nothing here changes a network.

A policy sees observations and says which edits it wants. Maths stands in `growth` and `sparse`,
gathering in `observation`, acting in `surgery`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from growcore.config import (
    GrowthConfig,
    GrowthMethod,
    GrowthWhere,
    PruningConfig,
    PruningMethod,
    PruningScope,
    ScheduleShape,
)
from growcore.edits.surgery import Edit, EditKind
from growcore.growth import GrowthProposal, MergeProposal, RemovedNeurons
from growcore.networks.neurons import neurons_to_keep
from growcore.sparse import (
    PRUNE_DIMS,
    PruneMask,
    Schedule,
    allocate,
    gradual_magnitude,
    hebbian_exchange,
    rank_globally,
    rank_within_scopes,
    rigl,
    set_evolution,
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training has come."""

    epoch: int  # epochs finished
    num_epochs: int  # epochs in all
    num_growths: int  # growth events so far


@dataclass(frozen=True, slots=True, eq=False)
class GrowthObservation:
    """What one layer would gain, and what that would bring."""

    layer: str
    width: int  # neurons now
    proposal: GrowthProposal | MergeProposal
    improvement: float  # predicted first-order decrease of the mean loss per squared scaling factor
    flops_per_neuron: int  # forward FLOPs a sample that each new neuron adds

    @property
    def improvement_per_flop(self) -> float:
        return self.improvement / (self.proposal.num_neurons * self.flops_per_neuron)


@dataclass(frozen=True, slots=True, eq=False)
class PruneObservation:
    """What is known of the connections of one sparse layer; all tensors have the weight's shape."""

    layer: str
    strengths: Tensor  # of every connection, pruned ones included
    weight: Tensor  # 0 where pruned
    alive: Tensor  # bool


@dataclass(frozen=True, slots=True, eq=False)
class ActivityObservation:
    """How active the neurons of one hidden layer are."""

    layer: str
    frequencies: Tensor  # of each neuron: share of (image, position) pairs at which its output was not 0
    removable: Tensor  # bool, of each neuron: the others compute the same without it
    num_images: int  # on which that was counted


def growth_is_due(config: GrowthConfig, progress: Progress) -> bool:
    """Whether a growth comes before the next epoch is trained."""
    return config.method != GrowthMethod.none and _is_due(
        progress, config.start_epoch, config.every_epochs, config.end_fraction
    )


def pruning_is_due(config: PruningConfig, progress: Progress) -> bool:
    """Whether connections are judged before the next epoch is trained."""
    return config.method != PruningMethod.none and _is_due(
        progress, config.start_epoch, config.every_epochs, config.end_fraction
    )


def removal_is_due(config: PruningConfig, progress: Progress) -> bool:
    """Whether dead neurons are looked for before the next epoch is trained."""
    return config.remove_dead and _is_due(
        progress, config.start_epoch, config.every_epochs, config.end_fraction
    )


def neurons_to_add(config: GrowthConfig, width: int) -> int:
    """Neurons a layer of this width may gain at one growth; 0 when it has its full width."""
    if config.max_width is None:
        return config.num_neurons
    return max(min(config.num_neurons, config.max_width - width), 0)


def decide_growth(
    observations: Sequence[GrowthObservation], config: GrowthConfig, progress: Progress
) -> list[Edit]:
    """The growths to apply together.

    Args:
        observations: layers that can still gain neurons, from input to output.
        config: `where` chooses among them.
        progress: decides whose turn it is.

    Returns:
        One edit a chosen layer; empty when nothing was observed.
    """
    if not observations:
        return []
    if config.where == GrowthWhere.all:
        return [_grow(observation, "every layer grows", config, progress) for observation in observations]
    if config.where == GrowthWhere.round_robin:
        chosen = observations[progress.num_growths % len(observations)]
        return [_grow(chosen, "its turn", config, progress)]
    if config.where == GrowthWhere.largest_improvement:
        chosen = max(observations, key=lambda o: o.improvement)
        return [
            _grow(chosen, f"largest first-order improvement ({chosen.improvement:.3g})", config, progress)
        ]
    chosen = max(observations, key=lambda o: o.improvement_per_flop)
    why = f"largest first-order improvement per FLOP ({chosen.improvement_per_flop:.3g})"
    return [_grow(chosen, why, config, progress)]


def decide_pruning(
    observations: Sequence[PruneObservation],
    config: PruningConfig,
    progress: Progress,
    generator: torch.Generator | None = None,
) -> list[Edit]:
    """What becomes of the connections of every sparse layer.

    Args:
        observations: all sparse layers, from input to output.
        config: the method and its fractions.
        progress: moves the fractions along `config.schedule`.
        generator: of the random choices of `set`.

    Returns:
        One edit a layer; none where the method never changes connections.
    """
    if config.method == PruningMethod.static or not observations:
        return []
    if config.method in (PruningMethod.hebbian, PruningMethod.random):
        masks, rule = _ranked(observations, config, progress)
    elif config.method == PruningMethod.gradual:
        masks, rule = _gradual(observations, config, progress)
    else:
        masks, rule = _exchanged(observations, config, progress, generator)
    return [
        Edit(o.layer, EditKind.prune, mask, f"{rule} at epoch {progress.epoch}")
        for o, mask in zip(observations, masks, strict=True)
    ]


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


def _ranked(
    observations: Sequence[PruneObservation], config: PruningConfig, progress: Progress
) -> tuple[list[PruneMask], str]:
    """hebbian, random: the strongest k1 of a scope stay, those up to k2 restart, the rest go."""
    share = 1 - _scheduled(config, progress, 1.0)  # of the way from a dense layer to k1 and k2
    k1, k2 = (1 - (1 - k) * share for k in (config.k1, config.k2))
    strengths = [o.strengths for o in observations]
    if config.scope == PruningScope.all_layers:
        masks = rank_globally(strengths, k1, k2)
    else:
        masks = [rank_within_scopes(s, k1, k2, PRUNE_DIMS[config.scope]) for s in strengths]
    scope = "over all layers" if config.scope == PruningScope.all_layers else f"within each {config.scope}"
    judged = "random" if config.method == PruningMethod.random else config.strength
    return masks, f"{judged} strength {scope}: the strongest {k1:.3g} stay, up to {k2:.3g} restart,"


def _gradual(
    observations: Sequence[PruneObservation], config: PruningConfig, progress: Progress
) -> tuple[list[PruneMask], str]:
    shapes = [o.weight.shape for o in observations]
    final = allocate(shapes, config.density, config.allocation.value)
    left = _scheduled(config, progress, 1.0)
    masks = [
        gradual_magnitude(o.weight, o.alive, density + (1 - density) * left)
        for o, density in zip(observations, final.densities, strict=True)
    ]
    return masks, f"smallest weights pruned, {1 - left:.3g} of the way to density {final.density:.3g},"


def _exchanged(
    observations: Sequence[PruneObservation],
    config: PruningConfig,
    progress: Progress,
    generator: torch.Generator | None,
) -> tuple[list[PruneMask], str]:
    """set, rigl, hebbian_exchange: as many connections come as go."""
    fraction = _scheduled(config, progress, config.fraction)
    if config.method == PruningMethod.set:
        masks = [set_evolution(o.weight, o.alive, fraction, generator) for o in observations]
        return masks, f"smallest {fraction:.3g} exchanged for random connections"
    if config.method == PruningMethod.rigl:
        masks = [rigl(o.weight, o.alive, o.strengths, fraction) for o in observations]
        return masks, f"smallest {fraction:.3g} exchanged for those of largest gradient"
    masks = [hebbian_exchange(o.strengths, o.alive, fraction) for o in observations]
    return masks, f"weakest {fraction:.3g} exchanged for the inactive of largest {config.strength}"


def _scheduled(config: PruningConfig, progress: Progress, initial: float) -> float:
    """A value that falls from `initial` before the first edit to 0 at the last one.

    With the constant schedule what an exchange moves stays as it is, and what is pruned is all at once.
    """
    exchanges = config.method in (PruningMethod.set, PruningMethod.rigl, PruningMethod.hebbian_exchange)
    if config.schedule == ScheduleShape.constant:
        return initial if exchanges else 0.0
    every = config.every_epochs
    num_edits = max((int(config.end_fraction * progress.num_epochs) - config.start_epoch) // every, 0) + 1
    first = config.start_epoch if exchanges else config.start_epoch - every
    last = config.start_epoch + (num_edits if exchanges else num_edits - 1) * every
    schedule = Schedule(shape=config.schedule.value, initial=initial, final=0.0, start=first, stop=last)
    return schedule(progress.epoch)


def _is_due(progress: Progress, start: int, every: int, end_fraction: float) -> bool:
    since = progress.epoch - start
    return since >= 0 and since % every == 0 and progress.epoch <= end_fraction * progress.num_epochs


def _measured(observation: GrowthObservation, config: GrowthConfig) -> dict[str, float]:
    """Figures for the record; only TINY's neurons act at once, GradMax's promise is about the step after."""
    if config.method != GrowthMethod.tiny:
        return {}
    return {"first_order_improvement": observation.improvement}


def _grow(observation: GrowthObservation, why: str, config: GrowthConfig, progress: Progress) -> Edit:
    number = observation.proposal.num_neurons
    return Edit(
        layer=observation.layer,
        kind=EditKind.grow,
        proposal=observation.proposal,
        reason=f"{why}; {number} neurons by {config.method.value} at epoch {progress.epoch}",
        measured=_measured(observation, config),
    )
