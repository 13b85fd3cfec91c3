"""Small networks of growing layers, and the literal loops their statistics are compared with."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from growcore.growth import GrowingModule, LinearGrowingModule, RestrictedConv2dGrowingModule


def double_well(y: Tensor) -> Tensor:
    """A loss whose gradient y^3 - y no affine map of the inputs gives."""
    return (y.square() - 1).square().sum() / 4


def linear_pair(
    sizes: tuple[int, int, int] = (5, 4, 3),
    function: nn.Module | None = None,
    use_bias: bool = True,
    previous_bias: bool = True,
) -> tuple[LinearGrowingModule, LinearGrowingModule]:
    first = LinearGrowingModule(sizes[0], sizes[1], use_bias=previous_bias, post_layer_function=function)
    second = LinearGrowingModule(
        sizes[1], sizes[2], use_bias=use_bias, previous_module=first, allow_growing=True
    )
    return first, second


def conv_pair(
    channels: tuple[int, int, int] = (2, 3, 4),
    function: nn.Module | None = None,
    first: dict[str, object] | None = None,
    second: dict[str, object] | None = None,
    kind: type = RestrictedConv2dGrowingModule,
) -> tuple[GrowingModule, GrowingModule]:
    keywords_1 = {"kernel_size": 3, "padding": 1} | (first or {})
    keywords_2 = {"kernel_size": 3, "padding": 1} | (second or {})
    one = kind(channels[0], channels[1], post_layer_function=function, **keywords_1)
    two = kind(channels[1], channels[2], previous_module=one, allow_growing=True, **keywords_2)
    return one, two


def gather(
    modules: list[GrowingModule], collecting: list[GrowingModule], batches: list[Tensor],
    loss: Callable[[Tensor], Tensor] = double_well,
) -> None:  # fmt: skip
    """Statistics of the collecting modules of a chain over the batches."""
    for module in collecting:
        module.init_computation()
    for x in batches:
        y = x
        for module in modules:
            y = module(y)
        loss(y).backward()
        for module in collecting:
            module.update_computation()


def chain_extended(modules: list[GrowingModule], x: Tensor) -> Tensor:
    x_ext = None
    for module in modules:
        x, x_ext = module.extended_forward(x, x_ext)
    return x


def chain(modules: list[GrowingModule], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


def taps_at(layer: nn.Conv2d, x: Tensor, row: int, column: int) -> Tensor:
    """(N, C*K*L): what the layer reads for its output position, by a loop over its taps."""
    (top, left), (stride, _), (dilation, _) = layer.padding, layer.stride, layer.dilation
    padded = F.pad(x, (left, left, top, top))
    taps = [
        padded[:, :, row * stride + i * dilation, column * stride + j * dilation]
        for i in range(layer.kernel_size[0])
        for j in range(layer.kernel_size[1])
    ]
    return torch.stack(taps, dim=2).flatten(1)


def with_one(columns: Tensor, use_bias: bool) -> Tensor:
    return torch.cat([columns, torch.ones(len(columns), 1)], dim=1) if use_bias else columns


def literal_restricted(first: GrowingModule, second: GrowingModule, x: Tensor) -> dict[str, Tensor]:
    """M_prev, C and S_growth of a restricted pair as means over samples, position by position."""
    middle, g = second.input, second.pre_activity.grad
    height, width = middle.shape[2:]
    layer, totals = second.layer, {"m_prev": 0.0, "c": 0.0, "s_growth": 0.0}
    for row in range(g.shape[2]):
        for column in range(g.shape[3]):
            centre = [
                position * layer.stride[axis]
                - layer.padding[axis]
                + layer.dilation[axis] * (layer.kernel_size[axis] // 2)
                for axis, position in enumerate((row, column))
            ]
            if not (0 <= centre[0] < height and 0 <= centre[1] < width):
                continue
            before = with_one(taps_at(first.layer, x, *centre), first.use_bias)
            own = with_one(taps_at(layer, middle, row, column), second.use_bias)
            totals["m_prev"] = totals["m_prev"] + before.T @ g[:, :, row, column]
            totals["c"] = totals["c"] + before.T @ own
            totals["s_growth"] = totals["s_growth"] + before.T @ before
    return {name: total / len(x) for name, total in totals.items()}


def literal_full(first: GrowingModule, second: GrowingModule, x: Tensor) -> dict[str, Tensor]:
    """M_prev, C and S_growth of a full pair as means over samples, pair of position and tap by pair."""
    middle, g, layer = second.input, second.pre_activity.grad, second.layer
    kernel, width = layer.kernel_size, taps_at(first.layer, x, 0, 0).shape[1] + int(first.use_bias)
    own_width = taps_at(layer, middle, 0, 0).shape[1] + int(second.use_bias)
    m_prev = torch.zeros(width, g.shape[1], *kernel)
    c = torch.zeros(width, *kernel, own_width)
    s_growth = torch.zeros(width, width)
    for row, column, i, j in itertools.product(*map(range, (*g.shape[2:], *kernel))):
        at = [
            position * layer.stride[axis] - layer.padding[axis] + layer.dilation[axis] * tap
            for axis, (position, tap) in enumerate(((row, i), (column, j)))
        ]
        if not (0 <= at[0] < middle.shape[2] and 0 <= at[1] < middle.shape[3]):
            continue
        before = with_one(taps_at(first.layer, x, *at), first.use_bias)
        m_prev[:, :, i, j] += before.T @ g[:, :, row, column] / len(x)
        c[:, i, j] += before.T @ with_one(taps_at(layer, middle, row, column), second.use_bias) / len(x)
        s_growth += before.T @ before / len(x)
    return {"m_prev": m_prev.flatten(1), "c": c.flatten(1, 2), "s_growth": s_growth}
