"""The built-in networks; each is a plain torch module made of growing layers.

Shapes: N images, C channels, H x W pixels; all give logits, N x classes.
[He2016] Deep residual learning for image recognition, arXiv:1512.03385.
[Simonyan2015] Very deep convolutional networks for large-scale image recognition, arXiv:1409.1556.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from growcore.config import Activation, ModelConfig, Normalization
from growcore.growth import (
    Conv2dMergeGrowingModule,
    GrowingModule,
    LinearGrowingModule,
    RestrictedConv2dGrowingModule,
)
from growcore.networks.families import ImageShape

_HEAD_GRID = 2  # the classifier of a GrowingConvNet sees this many pooled positions on each side


class GrowingMLP(nn.Module):
    """Linear layers `fc1` ... and a classifier `out`; every hidden layer can gain neurons."""

    def __init__(self, config: ModelConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        sizes = [channels * height * width, *config.widths]
        self.layers = nn.ModuleDict()
        previous: GrowingModule | None = None
        for index in range(len(config.widths)):
            previous = LinearGrowingModule(
                sizes[index],
                sizes[index + 1],
                post_layer_function=_after(config, sizes[index + 1], nn.BatchNorm1d),
                previous_module=previous,
                name=f"fc{index + 1}",
            )
            self.layers[f"fc{index + 1}"] = previous
        self.layers["out"] = LinearGrowingModule(sizes[-1], num_classes, previous_module=previous, name="out")

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits, N x classes."""
        x = x_NCHW.flatten(1)
        for layer in self.layers.values():
            x = layer(x)
        return x


class GrowingConvNet(nn.Module):
    """Convolutions `conv1` ..., some of stride 2, average pooling to 2 x 2 and a linear classifier `out`.

    Every convolution can gain channels: neighbours share a grid because the maps shrink by stride, and the
    classifier reads the last one through a merge that pools and flattens.
    """

    def __init__(self, config: ModelConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        channels, *size = image_shape
        sizes = [channels, *config.widths]
        self.layers = nn.ModuleDict()
        previous: GrowingModule | None = None
        for index in range(len(config.widths)):
            stride = 2 if config.downsample_every and (index + 1) % config.downsample_every == 0 else 1
            previous = RestrictedConv2dGrowingModule(
                sizes[index],
                sizes[index + 1],
                kernel_size=config.kernel_size,
                stride=stride,
                padding=config.kernel_size // 2,
                post_layer_function=_after(config, sizes[index + 1], nn.BatchNorm2d),
                previous_module=previous,
                name=f"conv{index + 1}",
            )
            self.layers[f"conv{index + 1}"] = previous
            size = [(side - 1) // stride + 1 for side in size]
        window = [max(side // _HEAD_GRID, 1) for side in size]
        positions = (size[0] // window[0]) * (size[1] // window[1])
        self.out = LinearGrowingModule(sizes[-1] * positions, num_classes, allow_growing=False, name="out")
        self.pool = _pooled(previous, nn.AvgPool2d((window[0], window[1])), self.out)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits, N x classes."""
        for layer in self.layers.values():
            x_NCHW = layer(x_NCHW)
        return cast(Tensor, self.out(self.pool(x_NCHW)))


class GrowingResNet(nn.Module):
    """Residual stages of basic blocks [He2016]; the hidden channels of every block can gain neurons.

    `model.widths` are the channels of the stages and never change; `model.blocks` counts the blocks of each.
    A block starts with `model.hidden_fraction` of its stage's channels inside, 0 included: it then passes
    its input on until the first growth. [2, 2, 2, 2] is the 18-layer style, [3, 4, 6, 3] the 34-layer one.
    """

    def __init__(self, config: ModelConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        stages = _stages(config, "residual blocks")
        self.stem = nn.Conv2d(
            image_shape[0], config.widths[0], config.kernel_size, padding=config.kernel_size // 2, bias=False
        )
        self.stem_function = _after(config, config.widths[0], nn.BatchNorm2d)
        self.layers = nn.ModuleDict()
        channels = config.widths[0]
        for stage, (width, num_blocks) in enumerate(stages, start=1):
            for block in range(1, num_blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                self.layers[f"stage{stage}block{block}"] = _BasicBlock(config, channels, width, stride)
                channels = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.out = nn.Linear(channels, num_classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits, N x classes."""
        x_NCHW = self.stem_function(self.stem(x_NCHW))
        for block in self.layers.values():
            x_NCHW = block(x_NCHW)
        return cast(Tensor, self.out(self.pool(x_NCHW).flatten(1)))


class _BasicBlock(nn.Module):
    """Two convolutions beside a shortcut; what lies between the two can grow."""

    def __init__(self, config: ModelConfig, channels: int, width: int, stride: int) -> None:
        super().__init__()
        hidden = round(config.hidden_fraction * width)
        kernel: dict[str, Any] = {"kernel_size": config.kernel_size, "padding": config.kernel_size // 2}
        self.conv1 = RestrictedConv2dGrowingModule(
            channels,
            hidden,
            stride=stride,
            post_layer_function=_after(config, hidden, nn.BatchNorm2d),
            allow_growing=False,
            name="conv1",
            **kernel,
        )
        self.conv2 = RestrictedConv2dGrowingModule(
            hidden,
            width,
            post_layer_function=_norm(config, width, nn.BatchNorm2d),
            previous_module=self.conv1,
            name="conv2",
            **kernel,
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride=stride, bias=False),
                _norm(config, width, nn.BatchNorm2d),
            )
        self.activation = _NONLINEARITIES[config.activation]()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Maps of the block's width, at its stride."""
        return cast(Tensor, self.activation(self.conv2(self.conv1(x_NCHW)) + self.shortcut(x_NCHW)))


class GrowingVGG(nn.Module):
    """Stages of convolutions, max pooling between them, an average and a linear classifier [Simonyan2015].

    `model.widths` are the channels of the stages, `model.blocks` counts the convolutions of each. Within a
    stage every convolution but the last can gain channels, and so can the last of all, which the classifier
    reads through an average. What stands before a max pooling keeps its width: the largest of a window is
    no linear function of the new channels, so there is no optimum to solve for.
    """

    def __init__(self, config: ModelConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        channels, *size = image_shape
        self.layers = nn.ModuleDict()
        self.pools: list[str] = []  # names of the layers after which maps are halved
        previous: GrowingModule | None = None
        for stage, (width, num_convolutions) in enumerate(_stages(config, "convolutions"), start=1):
            previous = None
            for index in range(1, num_convolutions + 1):
                name = f"stage{stage}conv{index}"
                previous = RestrictedConv2dGrowingModule(
                    channels,
                    width,
                    kernel_size=config.kernel_size,
                    padding=config.kernel_size // 2,
                    post_layer_function=_after(config, width, nn.BatchNorm2d),
                    allow_growing=previous is not None,
                    previous_module=previous,
                    name=name,
                )
                self.layers[name] = previous
                channels = width
            if stage < len(config.widths) and min(size) >= 2:
                self.pools.append(f"stage{stage}conv{num_convolutions}")
                size = [side // 2 for side in size]
        self.halve = nn.MaxPool2d(2)
        self.out = LinearGrowingModule(channels, num_classes, allow_growing=False, name="out")
        self.pool = _pooled(previous, nn.AdaptiveAvgPool2d(1), self.out)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits, N x classes."""
        for name, layer in self.layers.items():
            x_NCHW = layer(x_NCHW)
            if name in self.pools:
                x_NCHW = self.halve(x_NCHW)
        return cast(Tensor, self.out(self.pool(x_NCHW)))


def _pooled(
    last: GrowingModule | None, pool: nn.Module, out: LinearGrowingModule
) -> Conv2dMergeGrowingModule:
    """Pooling and flattening through which a classifier reads the last convolution, so that it can grow."""
    assert last is not None
    return Conv2dMergeGrowingModule(
        nn.Sequential(pool, nn.Flatten()), [last], [out], name=f"after {last.name}"
    )


def _stages(config: ModelConfig, what: str) -> list[tuple[int, int]]:
    """Width and number of blocks of each stage.

    Raises:
        ValueError: not one number of blocks for each width.
    """
    if len(config.blocks) != len(config.widths):
        raise ValueError(
            f"model.blocks gives the number of {what} of each stage and model.widths its channels; got "
            f"model.blocks={config.blocks}, model.widths={config.widths}. Give both the same length."
        )
    return list(zip(config.widths, config.blocks, strict=True))


def _after(config: ModelConfig, num_neurons: int, norm: type[nn.Module]) -> nn.Module:
    """What follows a hidden layer: normalisation if any, then the nonlinearity."""
    nonlinearity: nn.Module = _NONLINEARITIES[config.activation]()
    if config.normalization == Normalization.none:
        return nonlinearity
    return nn.Sequential(norm(num_neurons), nonlinearity)


def _norm(config: ModelConfig, num_neurons: int, norm: type[nn.Module]) -> nn.Module:
    return nn.Identity() if config.normalization == Normalization.none else norm(num_neurons)


_NONLINEARITIES: Mapping[Activation, Callable[[], nn.Module]] = {
    Activation.relu: nn.ReLU,
    Activation.leaky_relu: nn.LeakyReLU,
    Activation.tanh: nn.Tanh,
    Activation.gelu: nn.GELU,
    Activation.sigmoid: nn.Sigmoid,
    Activation.identity: nn.Identity,
}
