"""Taking hidden neurons out of a pair of growing modules: the reverse of growing.

A neuron is a row of the hidden layer, an entry of each normalisation behind it and the column with which
the consumer reads it. Those that stay keep their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from growcore.growth.merge import Consumer
from growcore.growth.normalization import GrowingGroupNorm, GrowingLayerNorm, parts

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True, slots=True, eq=False)
class RemovedNeurons:
    """A proposal: which neurons of a hidden layer stay."""

    keep: Tensor  # bool, one for each neuron

    @property
    def num_removed(self) -> int:
        """Neurons that go."""
        return int((~self.keep).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """What a removal took from one parameter, so that others can take the same from what belongs to it."""

    parameter: Tensor  # the one before the removal
    dim: int
    keep: Tensor  # bool, for each index of that dimension

    def of(self, value: Tensor) -> Tensor:
        """The part of a tensor, shaped like the parameter, that stays."""
        return _selected(value, self.dim, self.keep)


@runtime_checkable
class ShrinkingConnections(Protocol):
    """A layer that keeps a value per connection, such as a mask."""

    def connections_removed(self, dim: int, keep: Tensor) -> None:
        """Called after the weight lost indices of a dimension: cut what is kept per connection."""


def removable_neurons(consumer: Consumer) -> Tensor:
    """Which hidden neurons can go without a part in what the others compute, as long as they are silent.

    LayerNorm and GroupNorm mix the neurons they began with: none of those can go. What such a norm
    gained later passes it by and can. A part that keeps values per neuron of another kind holds all.

    Args:
        consumer: the layer that reads the neurons of its `previous_module`.

    Returns:
        bool, one for each neuron of the hidden layer.
    """
    consumer.check_neighbours()
    first = consumer.producers[0]
    removable = torch.ones(first.out_neurons, dtype=torch.bool, device=first.device)
    for part in _parts_of(consumer):
        if isinstance(part, GrowingLayerNorm | GrowingGroupNorm):
            removable[: int(part.num_normalized)] = False
        elif _keeps_values(part):
            removable[:] = False
    return removable


@torch.no_grad()
def remove_neurons(consumer: Consumer, keep: Tensor) -> list[Cut]:
    """Take neurons out of the hidden layer before a consumer, in place.

    Args:
        consumer: the layer that reads the neurons of its `previous_module`.
        keep: bool, one for each neuron of the hidden layer.

    Returns:
        What was cut from which parameter; parameters of changed shape are new objects. The function is
        the same where the removed neurons gave 0.

    Raises:
        ValueError: keep does not fit the layer, would empty it, or takes neurons that are not
            removable; nothing has changed then.
    """
    consumer.check_neighbours()
    keep = keep.to(consumer.producers[0].device)
    _check_removal(consumer, keep)
    columns = [keep.repeat_interleave(consumer.columns_per_neuron(reader)) for reader in consumer.readers]
    consumer.delete_update()
    return [
        *(cut for producer in consumer.producers for cut in _cut_layer(producer.layer, 0, keep)),
        *(cut for part in _parts_of(consumer) for cut in _cut_norm(part, keep)),
        *(
            cut
            for reader, kept in zip(consumer.readers, columns, strict=True)
            for cut in _cut_layer(reader.layer, 1, kept)
        ),
    ]


def _parts_of(consumer: Consumer) -> list[nn.Module]:
    """What acts on the hidden neurons before they are read."""
    functions = [*(producer.post_layer_function for producer in consumer.producers), consumer.function_behind]
    return [part for function in functions for part in parts(function) if not isinstance(part, nn.Identity)]


def _check_removal(consumer: Consumer, keep: Tensor) -> None:
    producer = consumer.producers[0]
    num_neurons = producer.out_neurons
    if keep.shape != (num_neurons,) or keep.dtype != torch.bool or not keep.any():
        raise ValueError(
            f"keep says of each of the {num_neurons} neurons of {producer.name} whether it stays, and one "
            f"at least must stay; got {keep.dtype} of shape {tuple(keep.shape)} with "
            f"{int(keep.count_nonzero())} that stay. Decide with growcore.networks.neurons.neurons_to_keep."
        )
    for layer in [module.layer for module in (*consumer.producers, *consumer.readers)]:
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            raise ValueError(
                f"channels of a grouped convolution cannot go one by one; {producer.name} or its consumer "
                f"{consumer.name} has groups={layer.groups}. Leave the pair as it is."
            )
    held = int((~keep & ~removable_neurons(consumer)).sum())
    if held:
        raise ValueError(
            f"{held} of the neurons to remove from {producer.name} cannot go: what follows the layer "
            f"normalises them together with others, or keeps values per neuron that it cannot give up "
            f"({', '.join(type(part).__name__ for part in _parts_of(consumer))}). Keep those that "
            f"removable_neurons leaves out."
        )


def _cut_layer(layer: Layer, dim: int, keep: Tensor) -> list[Cut]:
    cuts = [_cut(layer, "weight", dim, keep)]
    if dim == 0 and layer.bias is not None:
        cuts.append(_cut(layer, "bias", 0, keep))
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    else:
        layer.out_channels, layer.in_channels = layer.weight.shape[:2]
    if isinstance(layer, ShrinkingConnections):
        layer.connections_removed(dim, keep)
    return cuts


def _cut_norm(part: nn.Module, keep: Tensor) -> list[Cut]:
    if not isinstance(part, _BatchNorm | GrowingLayerNorm | GrowingGroupNorm):
        return []
    cuts = [_cut(part, name, 0, keep) for name, _ in list(part.named_parameters())]
    for name, buffer in list(part.named_buffers()):
        if buffer.dim() == 1:
            setattr(part, name, buffer[keep])
    if isinstance(part, _BatchNorm):
        part.num_features = int(keep.sum())
    elif isinstance(part, GrowingLayerNorm):
        part.normalized_shape = (int(keep.sum()),)
    else:
        part.num_channels = int(keep.sum())
    return cuts


def _cut(module: nn.Module, name: str, dim: int, keep: Tensor) -> Cut:
    old = module.get_parameter(name)
    left = _selected(old.detach(), dim, keep)
    setattr(module, name, nn.Parameter(left, requires_grad=old.requires_grad))
    return Cut(old, dim, keep)


def _selected(value: Tensor, dim: int, keep: Tensor) -> Tensor:
    return value.index_select(dim, keep.to(value.device).nonzero().flatten())


def _keeps_values(part: nn.Module) -> bool:
    """Whether a part mixes neurons or holds values of each that are not known to be cut."""
    if isinstance(part, _BatchNorm) or (isinstance(part, nn.PReLU) and part.num_parameters == 1):
        return False
    mixes = isinstance(part, nn.LayerNorm | nn.GroupNorm)  # without an affine map too
    return mixes or bool(list(part.parameters()) or list(part.buffers()))
