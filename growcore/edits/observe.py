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
        One observation for each pair that may gain at least one neuron, in the order given.
    """
    limits = max_widths(model, config)
    numbers = {name: neurons_to_add(config, width(c), limits[name]) for name, c in pairs.items()}
    open_pairs = {name: c for name, c in pairs.items() if numbers[name] > 0}
    method: GrowthMethod = registry.find(registry.GROWTH_METHODS, config.method, imports)
    if method.needs_statistics:
        _gather(model, open_pairs, batches)
    flops = _flops_per_neuron(model, open_pairs, batches[0][0].shape[1:])
    observations = []
    for name, consumer in open_pairs.items():
        proposal = _propose(consumer, method, config, numbers[name], generator)
        observations.append(
            GrowthObservation(
                layer=name,
                width=width(consumer),
                proposal=proposal,
                improvement=proposal.first_order_improvement,
                flops_per_neuron=flops[name],
            )
        )
    return observations


def observe_pruning(model: nn.Module, generator: torch.Generator | None = None) -> list[PruneObservation]:
    """The connections of every sparse layer and the strengths gathered so far (random ones: drawn now)."""
    return [
        PruneObservation(name, layer.strengths(generator), layer.masked_weight().detach(), layer.mask)
        for name, layer in sparse_layers(model).items()
        if layer.weight.numel()
    ]


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
    with evaluating(model):
        for x_NCHW, y_N in batches:
            functional.cross_entropy(model(x_NCHW), y_N, reduction="sum").backward()
            for consumer in pairs.values():
                consumer.update_computation()
    model.zero_grad(set_to_none=True)


def _propose(
    consumer: Consumer,
    method: GrowthMethod,
    config: GrowthConfig,
    number: int,
    generator: torch.Generator | None,
) -> GrowthProposal | MergeProposal:
    assert method.create is not None, f"{config.method} grows nothing, so nothing is observed for it"
    with _seeded(generator if method.draws else None, consumer.producers[0].device):
        method.create(consumer, config, number)
    proposal = consumer.proposal()
    consumer.delete_update()
    consumer.reset_computation()
    return proposal


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
