"""Networks that grow: built from a configuration, listing the layers that gain and lose.

A hidden layer is named as people see it (`conv1`, `fc2`). It gains neurons through its *consumer*: the
`GrowingModule` that reads it and has it as its `previous_module`, or the merge between it and its readers.
The consumer's proposal holds both sides. A merge that adds several layers widens them together and is named
by all of them, `conv1-shortcut`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from growcore.config import (
    Activation,
    GrowthConfig,
    Initialization,
    ModelConfig,
    PruningConfig,
    TrialConfig,
    registry,
)
from growcore.growth import Consumer, GrowingModule, MergeGrowingModule, remove_neurons
from growcore.networks.families import ImageShape, ModelFamily
from growcore.networks.initialization import draw_weights, initialize, input_gain
from growcore.sparse import PRUNE_DIMS, DSConv2d, DSLinear, SparseSettings, allocate, random_mask
from growcore.sparse.connections import check_own_weight
from growcore.sparse.methods import PruningMethod

SparseLayer = DSConv2d | DSLinear


def build(config: TrialConfig, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """The model of a configuration with its initial weights, on the CPU; equal seeds give equal weights.

    `growth.max_width`, where given, is the target_in_neurons of every consumer, or of each its own.

    Raises:
        ValueError: no model has the name, or `growth.max_width` is a list of another length.
    """
    family = registry.find(registry.MODELS, config.model.name, config.imports)
    builder = family.build if isinstance(family, ModelFamily) else family
    pruning = registry.find(registry.PRUNING_METHODS, config.pruning.method, config.imports)
    with torch.random.fork_rng(devices=[]):
        # Modules draw weights of their own when they are made; nobody else's numbers may shift by that.
        torch.manual_seed(config.seed)
        model: nn.Module = builder(config.model, image_shape, num_classes)
    pairs = growable(model)
    for name, limit in max_widths(model, config.growth).items():
        pairs[name].target_in_neurons = limit
    if pruning.makes_sparse:
        make_sparse(model, config.pruning, pruning)
    generator = torch.Generator().manual_seed(config.seed)
    initialize_weights(model, config.model, generator)
    if pruning.starts_sparse:
        start_sparse(model, config.pruning, generator)
    return model


def grow_pairs(model: nn.Module) -> dict[str, Consumer]:
    """Each hidden layer that can gain neurons, by name, with its consumer, from input to output.

    Raises:
        ValueError: the model has no growing layer that reads another one.
    """
    pairs = growable(model)
    if not pairs:
        raise ValueError(
            "the model has no pair of layers that can grow: a growing layer (LinearGrowingModule, "
            "RestrictedConv2dGrowingModule) must name another one as its previous_module. "
            "Give it at least two hidden layers of that kind, or set growth=none "
            "and pruning.remove_dead=false."
        )
    return pairs


def sparse_layers(model: nn.Module) -> dict[str, SparseLayer]:
    """The layers whose connections can be pruned, by the name people see, from input to output."""
    return {
        layer_name(name.removesuffix(".layer")): module
        for name, module in model.named_modules()
        if isinstance(module, DSConv2d | DSLinear)
    }


def sparse_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Shapes of the weights of `sparse_layers`."""
    return {name: layer.weight.shape for name, layer in sparse_layers(model).items()}


def layer_name(module_name: str) -> str:
    """`layers.conv1` as people see it: `conv1`."""
    return module_name.removeprefix("layers.")


def widths(model: nn.Module) -> dict[str, int]:
    """Neurons of each growable layer; empty where nothing can grow."""
    return {name: width(consumer) for name, consumer in growable(model).items()}


def max_widths(model: nn.Module, config: GrowthConfig) -> dict[str, int | None]:
    """How wide each growable layer may grow, by name as in `widths`; None: no limit.

    Raises:
        ValueError: `growth.max_width` is a list, and not of one entry for each layer.
    """
    present, limits = widths(model), config.max_width
    if not isinstance(limits, list):
        return dict.fromkeys(present, limits)
    if len(limits) != len(present):
        raise ValueError(
            f"growth.max_width holds one limit for each growable layer; got {len(limits)}, {limits}, for the "
            f"{len(present)} layers {', '.join(present) or 'of a network that cannot grow'}. Give one for "
            f"each, null for no limit, or one number for all."
        )
    return dict(zip(present, limits, strict=True))


def width(consumer: Consumer) -> int:
    """Neurons of the hidden layer that a consumer reads."""
    return consumer.producers[0].out_neurons


@dataclass(frozen=True, slots=True)
class WeightLaw:
    """How a layer draws its weights: all of them at the start, some when connections restart."""

    init: Initialization
    activation: Activation  # what the layer's input has passed through
    gain: float

    def __call__(self, weight: Tensor, generator: torch.Generator | None = None) -> None:
        draw_weights(weight, self.init.value, self.activation, self.gain, generator=generator)


def layer_width(model: nn.Module, name: str) -> int:
    """Neurons of a layer that `grow_pairs` or `sparse_layers` names.

    Raises:
        ValueError: no layer has the name.
    """
    pairs = growable(model)
    if name in pairs:
        return width(pairs[name])
    for module_name, module in model.named_modules():
        if layer_name(module_name) == name:
            layer = module.layer if isinstance(module, GrowingModule) else module
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            return layer.weight.shape[0]
    raise ValueError(f"The model has no layer {name!r}.")


def make_sparse(model: nn.Module, config: PruningConfig, method: PruningMethod) -> None:
    """Replace growing convolutions, and linear layers that feed another, by their sparse counterparts.

    Raises:
        ValueError: a growing layer's weight is computed from other parameters.
    """
    settings = _sparse_settings(config, method)
    producers = {id(producer) for consumer in growable(model).values() for producer in consumer.producers}
    for name, module in model.named_modules():
        if not isinstance(module, GrowingModule):
            continue
        check_own_weight(module.layer, layer_name(name))
        if type(module.layer) is nn.Conv2d:
            module.layer = DSConv2d.from_conv(module.layer, **settings)
        elif type(module.layer) is nn.Linear and id(module) in producers:
            module.layer = DSLinear.from_linear(module.layer, **settings)
    first = next((m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)), None)
    if isinstance(first, DSConv2d | DSLinear):
        first.reads_units = False  # its inputs are the pixels of images


def _sparse_settings(config: PruningConfig, method: PruningMethod) -> SparseSettings:
    return {
        "strength": method.strength(config),
        "activity_threshold": config.activity_threshold,
        "k1": config.k1,
        "k2": config.k2,
        "prune_dims": PRUNE_DIMS.get(config.scope, ()),
        "update_interval": config.update_interval,
    }


def start_sparse(model: nn.Module, pruning: PruningConfig, generator: torch.Generator) -> None:
    """Leave every sparse layer with random connections at `pruning.density`.

    A neuron has only density * fan_in inputs then, so its weights are drawn larger by density^(-1/2): the
    signal keeps its scale.
    """
    layers = [layer for layer in sparse_layers(model).values() if layer.weight.numel()]
    if not layers:
        return
    shares = allocate([layer.weight.shape for layer in layers], pruning.density, pruning.allocation.value)
    for layer, num_alive in zip(layers, shares.num_alive, strict=True):
        layer.start_sparse(random_mask(layer.weight.shape, num_alive, generator, layer.units))
        louder = layer.density**-0.5
        assert isinstance(layer.weight_init, WeightLaw)
        layer.weight_init = replace(layer.weight_init, gain=layer.weight_init.gain * louder)
        with torch.no_grad():
            layer.weight.mul_(louder)


def initialize_weights(model: nn.Module, config: ModelConfig, generator: torch.Generator) -> None:
    """Draw linear and convolution layers by `model.init`, scaled by `model.init_gain`; biases become 0."""
    activation = Activation.identity  # the images have passed through none
    gain = config.init_gain * input_gain(config.init.value, config.activation)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            initialize(module, config.init.value, activation, gain, generator)
            if isinstance(module, DSConv2d | DSLinear):
                module.weight_init = WeightLaw(config.init, activation, gain)
            activation, gain = config.activation, config.init_gain


def resize(model: nn.Module, target_widths: Mapping[str, int]) -> None:
    """Give the growable layers recorded widths, so that an edited model's weights can be loaded into it.

    Raises:
        ValueError: a name that is no growable layer, or a width to which the layer cannot be taken.
    """
    pairs = growable(model)
    for name, target in target_widths.items():
        if name not in pairs or (target < 1 and target != width(pairs[name])):
            raise ValueError(
                f"the model cannot take layer {name!r} to width {target}: its growable layers are "
                f"{widths(model)}. Build it from the configuration that the widths were recorded with."
            )
        _take_to_width(pairs[name], target)


def _take_to_width(consumer: Consumer, target: int) -> None:
    """More neurons of zero weights behind the old ones, or only the first of them."""
    present = width(consumer)
    if target > present:
        consumer.create_layer_extensions(
            target - present, output_extension_init="zeros", input_extension_init="zeros"
        )
        consumer.apply_change(1.0)
        consumer.delete_update()
    elif target < present:
        remove_neurons(consumer, torch.arange(present) < target)


def growable(model: nn.Module) -> dict[str, Consumer]:
    """As `grow_pairs`; empty where nothing can grow."""
    names = {id(module): layer_name(name) for name, module in model.named_modules()}
    return {
        "-".join(names[id(producer)] for producer in module.producers): module
        for module in model.modules()
        if isinstance(module, GrowingModule | MergeGrowingModule) and module.producers and module.readers
    }
