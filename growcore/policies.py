"""When, where and how many: decisions as values, with reasons; nothing here changes a network.

A policy sees observations and says which edits it wants. Maths stands in `growth` and `sparse`,
gathering in `observation`, acting in `surgery`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from growcore.config import GrowthConfig, GrowthMethod, GrowthWhere, PruningConfig, PruningMethod
from growcore.growth import GrowthProposal
from growcore.sparse import PruneMask
from growcore.surgery import Edit, EditKind


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
    proposal: GrowthProposal
    improvement: float  # predicted first-order decrease of the mean loss per squared scaling factor
    flops_per_neuron: int  # forward FLOPs a sample that each new neuron adds

    @property
    def improvement_per_flop(self) -> float:
        return self.improvement / (self.proposal.num_neurons * self.flops_per_neuron)


@dataclass(frozen=True, slots=True, eq=False)
class PruneObservation:
    """What a progression would keep, restart and prune in one layer."""

    layer: str
    proposal: PruneMask


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


def neurons_to_add(config: GrowthConfig, width: int) -> int:
    """Neurons a layer of this width may gain at one growth; 0 when it has its full width."""
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
    observations: Sequence[PruneObservation], config: PruningConfig, progress: Progress
) -> list[Edit]:
    """One progression for every sparse layer."""
    return [
        Edit(
            layer=observation.layer,
            kind=EditKind.prune,
            proposal=observation.proposal,
            reason=f"{config.method.value} strength within each {config.scope.value} at epoch "
            f"{progress.epoch}: the strongest {config.k1:.3g} stay, up to {config.k2:.3g} restart",
        )
        for observation in observations
    ]


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
