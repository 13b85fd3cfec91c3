"""Which hidden neurons are dead: the one place that says so.

A hidden neuron is *dead* on some images if it gives those that read it exactly 0, for every image and at
every position. So a neuron that tanh holds at -1 is alive: its readers would miss it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from growcore.growth import Consumer, MergeGrowingModule
from growcore.networks.neurons import NeuronActivity


@contextmanager
def watch_hidden(pairs: Mapping[str, Consumer]) -> Iterator[dict[str, NeuronActivity]]:
    """Count how often hidden neurons give anything but 0 while the block runs.

    Args:
        pairs: the hidden layers asked about, as `models.grow_pairs` lists them; layers without neurons are
            left out.

    Yields:
        for each layer the activity of its neurons, filled by every forward pass.
    """
    hidden = {name: consumer for name, consumer in pairs.items() if consumer.producers[0].out_neurons}
    activities = {name: NeuronActivity() for name in hidden}
    handles = [
        _last_before_readers(consumer).register_forward_hook(_count(activities[name], consumer))
        for name, consumer in hidden.items()
    ]
    try:
        yield activities
    finally:
        for handle in handles:
            handle.remove()


def _last_before_readers(consumer: Consumer) -> nn.Module:
    """The module whose output is all that others see of the hidden neurons."""
    return consumer if isinstance(consumer, MergeGrowingModule) else consumer.producers[0]


def _count(activity: NeuronActivity, consumer: Consumer) -> Callable[[nn.Module, object, Tensor], None]:
    num_neurons = consumer.producers[0].out_neurons

    def count(module: nn.Module, inputs: object, output: Tensor) -> None:
        if output.dim() == 2:  # a merge may have flattened its maps, channels first
            output = output.unflatten(1, (num_neurons, -1))
        activity.update(output)

    return count
