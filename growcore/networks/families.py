"""The families of built-in networks: how each is built, and which keys of `model` shape it. No torch.

A network of one's own is a function `(ModelConfig, image_shape, num_classes) -> nn.Module`, or a
`ModelFamily`, which states its keys too. It stands in the mapping `MODELS = {"name": function}` of a module
that the configuration's `imports` names, or behind an entry point of the group `growcore.models`. Its growing
layers grow and are pruned like those here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from growcore.config.acting import Keys, acting

if TYPE_CHECKING:  # tables of families are read where torch is not wanted
    from torch import nn

    from growcore.config import ModelConfig

ImageShape = tuple[int, int, int]  # channels, height, width
Build = Callable[["ModelConfig", ImageShape, int], "nn.Module"]

EVERY = acting("widths", "activation", "normalization", "init", "init_gain")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFamily:
    """Networks that are built alike."""

    meaning: str  # a line, for tables
    build: Build  # (config, image shape, number of classes) -> the network, before its weights are drawn
    keys: Keys  # of ModelConfig, that shape it
    # Widths at the start of the layers that can grow, as `networks.models.widths` lists them; None: only the
    # network knows.
    growable_widths: Callable[[ModelConfig], list[int] | None] = lambda config: None


def _mlp(config: ModelConfig, image_shape: ImageShape, num_classes: int) -> nn.Module:
    from growcore.networks.builtin import GrowingMLP

    return GrowingMLP(config, image_shape, num_classes)


def _conv(config: ModelConfig, image_shape: ImageShape, num_classes: int) -> nn.Module:
    from growcore.networks.builtin import GrowingConvNet

    return GrowingConvNet(config, image_shape, num_classes)


def _resnet(config: ModelConfig, image_shape: ImageShape, num_classes: int) -> nn.Module:
    from growcore.networks.builtin import GrowingResNet

    return GrowingResNet(config, image_shape, num_classes)


def _vgg(config: ModelConfig, image_shape: ImageShape, num_classes: int) -> nn.Module:
    from growcore.networks.builtin import GrowingVGG

    return GrowingVGG(config, image_shape, num_classes)


def _inside_blocks(config: ModelConfig) -> list[int] | None:
    if len(config.blocks) != len(config.widths):
        return None
    stages = zip(config.widths, config.blocks, strict=True)
    return [round(config.hidden_fraction * width) for width, number in stages for _ in range(number)]


def _within_stages(config: ModelConfig) -> list[int] | None:
    """The last convolution of a stage stands before a pooling; that of the last stage before an average."""
    if len(config.blocks) != len(config.widths):
        return None
    stages = zip(config.widths, config.blocks, strict=True)
    return [width for width, number in stages for _ in range(number - 1)] + config.widths[-1:]


def _every_layer(config: ModelConfig) -> list[int]:
    return list(config.widths)


MODELS: Mapping[str, ModelFamily] = {
    "mlp": ModelFamily(meaning="linear layers", build=_mlp, keys=EVERY, growable_widths=_every_layer),
    "conv": ModelFamily(
        meaning="convolutions, then a mean over the map",
        build=_conv,
        keys=EVERY | acting("kernel_size", "downsample_every"),
        growable_widths=_every_layer,
    ),
    "resnet": ModelFamily(
        meaning="residual stages of basic blocks",
        build=_resnet,
        keys=EVERY | acting("kernel_size", "blocks", "hidden_fraction"),
        growable_widths=_inside_blocks,
    ),
    "vgg": ModelFamily(
        meaning="stages of convolutions with max pooling between",
        build=_vgg,
        keys=EVERY | acting("kernel_size", "blocks"),
        growable_widths=_within_stages,
    ),
}
