"""GradMax: zero weights into the new neurons; out of them those that give the largest gradient.

Evci et al. 2022, "GradMax: Growing Neural Networks using Gradient Information", arXiv:2201.05125.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from growcore.config.acting import acting
from growcore.growth.methods.method import EVENTS, STATISTICS, GrowthMethod

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from growcore.config import GrowthConfig
    from growcore.growth.merge import Consumer


def create(consumer: Consumer, config: GrowthConfig, number: int) -> None:
    """Solve for at most so many neurons."""
    consumer.compute_gradmax_updates(
        maximum_added_neurons=number,
        statistical_threshold=config.statistical_threshold,
        relative_thresholds=config.relative_thresholds,
    )


def finish(consumer: Consumer, config: GrowthConfig) -> None:
    """Bring their outgoing weights to the size of those beside them."""
    from growcore.growth.initialization import reference_std

    # The solution's columns have norm 1; beside trained weights they are brought to the weights' own size.
    extensions = [reader.extended_input_layer for reader in consumer.readers]
    old = _entries(reader.layer for reader in consumer.readers)
    new = _entries(extension for extension in extensions if extension is not None)
    fan_in = consumer.readers[0].in_fan
    scale = reference_std(old, fan_in) / reference_std(new, fan_in)
    consumer.scale_layer_extension(None, 1.0, scale)


def _entries(layers: Iterable[nn.Linear | nn.Conv2d]) -> Tensor:
    import torch

    return torch.cat([layer.weight.detach().flatten() for layer in layers])


METHOD = GrowthMethod(
    meaning="zero weights in; out of them those that give the largest gradient",
    keys=EVENTS | STATISTICS | acting("statistical_threshold", "relative_thresholds"),
    create=create,
    finish=finish,
    needs_statistics=True,
    draws=False,
)
