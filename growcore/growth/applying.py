"""Carrying an extension out, and putting it aside as a proposal, for pairs and merges alike.

gamma is the scaling factor: steps are taken gamma^2 times, weights into and out of new neurons gamma times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from growcore.growth.extending import require_extension, set_scaling_factor
from growcore.growth.extension import Extension, NewInputs, NewOutputs
from growcore.growth.normalization import check_growable, grow_function
from growcore.growth.proposal import GrowthProposal, MergeProposal, fitted
from growcore.growth.resting import check_offsets, offset

if TYPE_CHECKING:
    from growcore.growth.merge import Consumer
    from growcore.growth.module import GrowingModule

Proposal = TypeVar("Proposal", GrowthProposal, MergeProposal)


def apply(
    consumer: Consumer,
    change: Extension,
    scaling_factor: float | Tensor | None,
    extension_size: int | None,
    one_side: bool = False,
) -> float:
    """Make the layers around a consumer compute what their extended forward passes compute.

    Args:
        consumer: whose producers and readers change.
        change: the parts of its extension that are applied, the others left out.
        scaling_factor: gamma; None: the current one.
        extension_size: number of new neurons, checked; None: those of the extension.
        one_side: whether the readers may grow alone, because the caller sees to the producers.

    Returns:
        gamma.

    Raises:
        ValueError: the change does not fit the layers; nothing has changed then.
    """
    _check_change(consumer, change, extension_size)
    if not one_side:
        _check_both_sides(consumer, change)
    if scaling_factor is not None:
        set_scaling_factor(consumer, float(scaling_factor))
    gamma = float(consumer.readers[0].scaling_factor.detach())
    for reader, read in zip(consumer.readers, change.inputs, strict=True):
        if read.delta_weight is not None:
            bias = None if read.delta_bias is None else -(gamma**2) * read.delta_bias
            reader.parameter_step(-(gamma**2) * read.delta_weight, bias)
        if read.omega is not None:
            _read(reader, read.omega, gamma)
    for producer, new in zip(consumer.producers, change.outputs, strict=True):
        if new is not None:
            _grow_output(producer, new, gamma)
    return gamma


@torch.no_grad()
def _read(module: GrowingModule, omega: Tensor, gamma: float) -> None:
    """Gain scaled inputs; what the new neurons give at rest is taken off the bias."""
    shift = offset(module, omega)
    if shift is not None and module.bias is not None:
        module.bias.sub_(gamma * shift)
    module.layer_in_extension(gamma * omega)


def _grow_output(module: GrowingModule, new: NewOutputs, gamma: float) -> None:
    """Gain scaled outputs, and let what follows the layer grow along."""
    module.layer_out_extension(gamma * new.weight, None if new.bias is None else gamma * new.bias)
    module.post_layer_function = grown_function(
        module.post_layer_function, len(new.weight), new.preactivation_mean, new.preactivation_variance, gamma
    )


def grown_function(
    function: nn.Module, num_new: int, mean: Tensor | None, variance: Tensor | None, gamma: float
) -> nn.Module:
    """A function with more channels, which expect the moments that new neurons have at gamma."""
    if mean is None or variance is None:
        return grow_function(function, num_new)
    return grow_function(function, num_new, gamma * mean, gamma**2 * variance)


def _check_change(consumer: Consumer, change: Extension, extension_size: int | None) -> None:
    omega = change.inputs[0].omega
    size = 0 if omega is None else omega.shape[1]
    if extension_size is not None and extension_size != size:
        raise ValueError(
            f"extension_size must be the size of the extension of {consumer.name}; "
            f"got extension_size={extension_size}, extension {size}. Leave it out."
        )
    growing = [(m, new) for m, new in zip(consumer.producers, change.outputs, strict=True) if new is not None]
    for producer, _ in growing:
        check_growable(producer.post_layer_function, producer.name)
    check_offsets(consumer, change)
    pairs = zip(consumer.readers, change.inputs, strict=True)
    stale = any(_is_stale(reader, read) for reader, read in pairs)
    if stale or any(new.weight.shape[1:] != producer.weight.shape[1:] for producer, new in growing):
        raise ValueError(
            f"The update of {consumer.name} was computed for other sizes: a layer has grown since. "
            f"Gather statistics again, or take proposal() first and load_proposal() now."
        )


def _check_both_sides(consumer: Consumer, change: Extension) -> None:
    """Raise a ValueError where one side alone would grow, or the two by numbers that do not belong."""
    gained = [None if new is None else new.weight.shape[0] for new in change.outputs]
    read = [None if new.omega is None else new.omega.shape[1] for new in change.inputs]
    if all(size is None for size in (*gained, *read)):
        return
    columns = [consumer.columns_per_neuron(reader) for reader in consumer.readers]
    k = gained[0] if gained else None
    if k is None or gained != [k] * len(gained) or read != [k * number for number in columns]:
        raise ValueError(
            f"New neurons stand on both sides of {consumer.name}, or the next forward pass would not fit; "
            f"got {_sizes(gained)} new outputs before it and {_sizes(read)} new inputs behind, which read "
            f"each neuron by {_sizes(columns)}. Create both sides, for example by create_layer_extensions(), "
            f"or leave new neurons out (apply_extension=False, or apply_previous=False to grow the module "
            f"before yourself)."
        )


def _sizes(sizes: Sequence[int | None]) -> str:
    return ", ".join("no" if size is None else str(size) for size in sizes) or "no"


def _is_stale(reader: GrowingModule, read: NewInputs) -> bool:
    step, omega = read.delta_weight, read.omega
    return (step is not None and step.shape != reader.weight.shape) or (
        omega is not None and omega.shape[0] != reader.out_neurons
    )


def proposed(consumer: Consumer, kind: type[Proposal]) -> Proposal:
    """The current new neurons and steps as a value.

    Raises:
        ValueError: there are no new neurons, all of them are zero on both sides, or what they give at rest
            cannot be taken off.
    """
    extension = require_extension(consumer, "propose")
    sides: list[Tensor | None] = [read.omega for read in extension.inputs]
    for new in extension.outputs:
        sides += [] if new is None else [new.weight, new.bias]
    if not any(bool(side.any()) for side in sides if side is not None):
        raise ValueError(
            f"The new neurons before {consumer.name} are zero on both sides: no gradient would ever reach "
            f"them. Draw or solve for at least one side."
        )
    check_offsets(consumer, extension)
    known = all(reader.parameter_update_decrease is not None for reader in consumer.readers)
    improvement = float(consumer.first_order_improvement) if known else 0.0
    gamma = float(consumer.readers[0].scaling_factor.detach())
    return kind.of(extension, improvement, consumer.predicted_decrease, gamma)


def load(consumer: Consumer, proposal: GrowthProposal | MergeProposal) -> None:
    """Set the extension and gamma of a proposal, so that apply_change bakes in exactly it.

    Neurons that the modules around have gained since the proposal was made get zeros: the proposal does not
    concern them. So proposals made for several places of one network apply one after another.

    Raises:
        ValueError: the proposal does not fit the modules; nothing has changed then.
    """
    counts = len(proposal.extension.outputs), len(proposal.extension.inputs)
    if counts != (len(consumer.producers), len(consumer.readers)):
        raise ValueError(
            f"A proposal for {consumer.name} names {len(consumer.producers)} modules before and "
            f"{len(consumer.readers)} behind it; got {counts[0]} and {counts[1]}. Load a proposal into the "
            f"merge it was made for."
        )
    consumer.extension = fitted(
        proposal.extension,
        [producer.layer for producer in consumer.producers],
        [reader.layer for reader in consumer.readers],
        [consumer.columns_per_neuron(reader) for reader in consumer.readers],
    )
    set_scaling_factor(consumer, proposal.gamma)
