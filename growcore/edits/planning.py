"""What a trial will cost, before it runs: every planned growth taken as full and accepted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from growcore import data
from growcore.config import GrowthWhere, TrialConfig
from growcore.config.timing import Progress
from growcore.edits import decide
from growcore.networks import cost, models


@dataclass(frozen=True, slots=True)
class PlannedCost:
    """Size and work of a trial that grows as its configuration says and is not stopped."""

    training_flops: int  # dense, forward and backward over all epochs; statistics are left out
    parameters: int  # at the end
    forward_flops: int  # of one sample, at the end
    widths: dict[str, int]  # of the growable layers, at the end
    growth_epochs: tuple[int, ...]  # epochs before which growth is due


def planned_cost(config: TrialConfig) -> PlannedCost:
    """Cost of a whole trial on the CPU's copy of its data set, without training it.

    With `growth.where` other than `all` the layers are taken to gain in turns.

    Raises:
        ValueError, FileNotFoundError: as building the training would.
    """
    images = data.load(config.data, "cpu", config.imports)
    model = models.build(config, images.image_shape, images.num_classes)
    size = cost.measure(model, images.image_shape)
    flops = 0
    growth_epochs: list[int] = []
    for epoch in range(config.training.num_epochs):
        progress = Progress(epoch, config.training.num_epochs, len(growth_epochs))
        if decide.growth_is_due(config.growth, progress):
            _grow(model, config, len(growth_epochs))
            growth_epochs.append(epoch)
            size = cost.measure(model, images.image_shape)
        flops += size.training_flops * len(images.train)
    return PlannedCost(flops, size.parameters, size.forward_flops, models.widths(model), tuple(growth_epochs))


def _grow(model: nn.Module, config: TrialConfig, num_growths: int) -> None:
    widths, limits, growth = models.widths(model), models.max_widths(model, config.growth), config.growth
    names = list(widths)
    if config.growth.where != GrowthWhere.all:
        names = [names[num_growths % len(names)]] if names else []
    gains = {name: decide.neurons_to_add(growth, widths[name], limits[name]) for name in names}
    models.resize(model, {name: widths[name] + gain for name, gain in gains.items()})
