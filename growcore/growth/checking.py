"""Which layers and neighbours can grow at all; what cannot is refused by name, before anything changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.parameter import is_lazy

from growcore.growth.normalization import check_growable

if TYPE_CHECKING:
    from growcore.growth.merge import Consumer


def check_layer(layer: nn.Module, name: str) -> None:
    """Raise a ValueError unless the layer is a linear or 2-d convolution whose weights are its own."""
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise ValueError(
            f"Growth is defined for nn.Linear and nn.Conv2d; {name} has a {type(layer).__name__}. Leave the "
            f"layer as it is."
        )
    if is_lazy(layer.weight):
        raise ValueError(
            f"{name} has a {type(layer).__name__} without weights yet. Run it once, or give it its sizes."
        )
    # A parametrised weight is computed from other parameters; what is written to it is lost.
    computed = [key for key in ("weight", "bias") if key not in layer._parameters]
    if computed:
        raise ValueError(
            f"The {' and '.join(computed)} of {name} is computed (weight norm, spectral norm or another "
            f"parametrization of its {type(layer).__name__}), and growth could not change it. Remove the "
            f"parametrization, or leave the layer out of growth."
        )


def check_kind(layer: nn.Module, kind: type[nn.Module], name: str) -> None:
    """Raise a ValueError unless the layer can grow and is of that kind."""
    check_layer(layer, name)
    if not isinstance(layer, kind):
        raise ValueError(f"{name} grows an nn.{kind.__name__}; got {type(layer).__name__}.")


def check_can_grow(consumer: Consumer) -> None:
    """Raise a ValueError where the modules around a consumer cannot gain the neurons it reads."""
    consumer.check_neighbours()
    check_parts(consumer)


def check_parts(consumer: Consumer) -> None:
    """Raise a ValueError where a layer around a consumer, or a function between them, cannot grow."""
    for module in (*consumer.producers, *consumer.readers):
        check_layer(module.layer, module.name)
    for producer in consumer.producers:
        check_growable(producer.post_layer_function, producer.name)
    check_growable(consumer.function_behind, consumer.name)
