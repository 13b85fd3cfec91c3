"""Looking before editing: statistics, solved proposals and activity; the network stays as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from growcore.config import GrowthConfig, registry
from growcore.data import Batch
from growcore.edits.decide import ActivityObservation, GrowthObservation, neurons_to_add
from growcore.growth import Consumer, GrowthProposal, MergeProposal, removable_neurons
from growcore.growth.gains import measure, needs_second_look
from growcore.growth.methods import GrowthMethod
from growcore.networks import cost
from growcore.networks.activity import watch_hidden
from growcore.networks.models import max_widths, sparse_layers, width
from growcore.networks.modes import evaluating
from growcore.sparse.methods import PruneObservation


def observe_growth(
    model: nn.Module,
    pairs: Mapping[str, Consumer],
    batches: Sequence[Batch],
    config: GrowthConfig,
    generator: torch.Generator | None = None,
    imports: Sequence[str] = (),
) -> list[GrowthObservation]:
    """What each pair would gain, for the network as it is now.

    Args:
        model: run in eval mode, so that neither normalisation nor strengths move.
        pairs: the layers asked about, as `models.grow_pairs` lists them.
        batches: training batches, for the statistics of methods that look at some.
        config: method, thresholds, number of neurons.
        generator: of the methods that draw weights.
        imports: modules in which a method of one's own is looked for.

    Returns:
        One observation for each pair that may gain at least one neuron, in the order given. Where no
        neurons would be of use it has no proposal, and says why.
    """
    limits = max_widths(model, config)
    numbers = {name: neurons_to_add(config, width(c), limits[name]) for name, c in pairs.items()}
    open_pairs = {name: c for name, c in pairs.items() if numbers[name] > 0}
    method: GrowthMethod = registry.find(registry.GROWTH_METHODS, config.method, imports)
    if method.needs_statistics:
        _gather(model, open_pairs, batches)
    flops = _flops_per_neuron(model, open_pairs, batches[0][0].shape[1:])
    for name, consumer in open_pairs.items():
        _create(consumer, method, config, numbers[name], generator)
    if method.needs_statistics:
        _choose_signs(model, open_pairs, batches, method)
    return [
        _observation(name, consumer, method, config, flops[name]) for name, consumer in open_pairs.items()
    ]


def _observation(
    name: str, consumer: Consumer, method: GrowthMethod, config: GrowthConfig, flops_per_neuron: int
) -> GrowthObservation:
    proposal, refusal = _propose(consumer, method, config)
    return GrowthObservation(
        layer=name,
        width=width(consumer),
        proposal=proposal,
        improvement=0.0 if proposal is None else proposal.predicted_decrease,
        flops_per_neuron=flops_per_neuron,
        refusal=refusal,
    )


def observe_pruning(
    model: nn.Module,
    generator: torch.Generator | None = None,
    before: Mapping[str, torch.Size] | None = None,
) -> list[PruneObservation]:
    """The connections of every sparse layer and the strengths gathered so far (random ones: drawn now).

    Args:
        model: layers without neurons are left out.
        generator: of random strengths.
        before: shapes of the layers before neurons were gained just now, as `models.sparse_shapes` gives
            them; what lies beyond is `grown`.
    """
    return [
        PruneObservation(
            layer=name,
            strengths=layer.strengths(generator),
            weight=layer.masked_weight().detach(),
            alive=layer.mask,
            grown=None if before is None else _beyond(before[name], layer.mask),
            units=layer.units,
        )
        for name, layer in sparse_layers(model).items()
        if layer.weight.numel()
    ]


def _beyond(shape: torch.Size, mask: torch.Tensor) -> torch.Tensor:
    """True where an index lies beyond a smaller shape."""
    beyond = torch.ones_like(mask)
    beyond[tuple(slice(size) for size in shape)] = False
    return beyond


def observe_activity(
    model: nn.Module, pairs: Mapping[str, Consumer], batches: Sequence[Batch]
) -> list[ActivityObservation]:
    """How often the neurons of each pair's hidden layer give anything but 0.

    Args:
        model: run in eval mode, without gradients.
        pairs: the hidden layers asked about, as `models.grow_pairs` lists them; layers without neurons
            are left out.
        batches: training batches.
    """
    with evaluating(model), torch.no_grad(), watch_hidden(pairs) as activities:
        for x_NCHW, _ in batches:
            model(x_NCHW)
    num_images = sum(len(y_N) for _, y_N in batches)
    return [
        ActivityObservation(name, activity.frequencies(), removable_neurons(pairs[name]), num_images)
        for name, activity in activities.items()
    ]


def _gather(model: nn.Module, pairs: Mapping[str, Consumer], batches: Sequence[Batch]) -> None:
    for consumer in pairs.values():
        consumer.init_computation()
    for _ in _passes(model, batches):
        for consumer in pairs.values():
            consumer.update_computation()


def _passes(model: nn.Module, batches: Sequence[Batch]) -> Iterator[None]:
    """After each pause one more batch has gone forward and backward in eval mode."""
    with evaluating(model):
        for x_NCHW, y_N in batches:
            functional.cross_entropy(model(x_NCHW), y_N, reduction="sum").backward()
            yield
    model.zero_grad(set_to_none=True)


def _create(
    consumer: Consumer,
    method: GrowthMethod,
    config: GrowthConfig,
    number: int,
    generator: torch.Generator | None,
) -> None:
    assert method.create is not None, f"{config.method} grows nothing, so nothing is observed for it"
    with _seeded(generator if method.draws else None, consumer.producers[0].device):
        method.create(consumer, config, number)


def _choose_signs(
    model: nn.Module, pairs: Mapping[str, Consumer], batches: Sequence[Batch], method: GrowthMethod
) -> None:
    """Neurons that were solved for get their signs and gains; of others that promise, the gains are measured.

    Where their function is one-sided this takes a second look at the batches of the statistics.
    """
    created = [consumer for consumer in pairs.values() if consumer.extension.has_neurons]
    looking = [c for c in created if needs_second_look(c) or (method.promises and c.extension.gains is None)]
    for consumer in pairs.values():
        if consumer not in looking:
            consumer.reset_computation()
    if looking:
        for _ in _passes(model, batches):
            for consumer in looking:
                consumer.look_again()
    for consumer in created:
        if consumer.extension.eigenvalues is not None:
            consumer.choose_signs()
        elif method.promises:
            measure(consumer)


def _propose(
    consumer: Consumer, method: GrowthMethod, config: GrowthConfig
) -> tuple[GrowthProposal | MergeProposal | None, str]:
    """The proposal, or None and why there is none."""
    proposal, refusal = None, _without_use(consumer)
    if not refusal:
        if method.finish is not None:
            method.finish(consumer, config)
        try:
            proposal = consumer.proposal()
        except ValueError as error:
            refusal = str(error)
    consumer.delete_update()
    consumer.reset_computation()
    return proposal, refusal


def _without_use(consumer: Consumer) -> str:
    """Why no neuron is left, empty where some are."""
    extension = consumer.extension
    if extension.has_neurons:
        return ""
    if extension.is_complete:
        return "no gradient that new neurons could correct arrives here"
    return "no new neuron would lower the loss to first order"


def _flops_per_neuron(
    model: nn.Module, pairs: Mapping[str, Consumer], image_shape: Sequence[int]
) -> dict[str, int]:
    """Forward FLOPs a sample of one neuron: its row in the hidden layer and its column in the consumer."""
    positions = cost.output_positions(model, image_shape)
    flops = {}
    for name, consumer in pairs.items():
        rows = sum(p.weight.shape[1:].numel() * positions[id(p)] for p in consumer.producers)
        columns = sum(
            consumer.columns_per_neuron(r) * _column_size(r.layer) * positions[id(r)]
            for r in consumer.readers
        )
        flops[name] = 2 * (rows + columns)
    return flops


def _column_size(layer: nn.Linear | nn.Conv2d) -> int:
    out, _, *kernel = layer.weight.shape
    return out * math.prod(kernel)


@contextmanager
def _seeded(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Draws of torch's own generator follow ours, and leave no trace outside."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
