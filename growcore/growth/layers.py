"""Functions of a plain linear or convolution layer: what it computes, how wide it is, a layer like it.

Shapes: a weight is (out, in) or (out, in, kh, kw), a bias (out,).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, nn

from growcore.growth.resizing import replace_parameters
from growcore.growth.statistics.patches import output_size

if TYPE_CHECKING:
    from growcore.growth.module import GrowingModule

Layer = nn.Linear | nn.Conv2d
LayerKind = TypeVar("LayerKind", nn.Linear, nn.Conv2d)


def apply_layer(layer: Layer, x: Tensor) -> Tensor:
    """layer(x), also for a convolution without channels on one side, which torch refuses."""
    if isinstance(layer, nn.Linear) or layer.weight.numel():
        return cast(Tensor, layer(x))
    size = (x.shape[0], layer.out_channels, *output_size(layer, (x.shape[2], x.shape[3])))
    if layer.bias is not None:
        return layer.bias[:, None, None].expand(size).clone()
    # Nothing it is computed from has a gradient, but the gradient of the pre-activation is asked for.
    return x.new_zeros(size).requires_grad_(torch.is_grad_enabled())


def get_fan_in_from_layer(layer: nn.Module) -> int:
    """Number of inputs of one neuron of the layer: the number of entries of one row of its weight."""
    assert isinstance(layer.weight, Tensor)
    return fan_in(layer.weight)


def fan_in(weight: Tensor) -> int:
    """Number of inputs of one neuron: the number of entries of one row of the weight."""
    return weight[:1].numel() if weight.shape[0] else int(torch.tensor(weight.shape[1:]).prod())


def layer_like(layer: Layer, weight: Tensor, bias: Tensor | None) -> Layer:
    """A plain layer of the same kernel, stride, padding and dilation whose parameters are these tensors."""
    # On the meta device no random numbers are drawn for weights that are replaced at once.
    if isinstance(layer, nn.Linear):
        like: Layer = nn.Linear(1, 1, bias=bias is not None, device="meta")
    else:
        padding = layer.padding if isinstance(layer.padding, str) else (layer.padding[0], layer.padding[1])
        kernel, stride, dilation = ((p[0], p[1]) for p in (layer.kernel_size, layer.stride, layer.dilation))
        like = nn.Conv2d(
            1, 1, kernel, stride, padding, dilation,
            bias=bias is not None, padding_mode=layer.padding_mode, device="meta",
        )  # fmt: skip
    replace_parameters(like, weight, bias)
    return like


def layer_of_tensor(
    module: GrowingModule, weight: Tensor, bias: Tensor | None = None, force_bias: bool = True
) -> Layer:
    """A layer like a module's, but for its sizes, with copies of the given weight and bias.

    Raises:
        ValueError: force_bias, and the bias is there although the layer has none or the reverse.
    """
    if force_bias and (bias is not None) != module.use_bias:
        raise ValueError(
            f"A layer like that of {module.name} has a bias exactly if it does; got bias "
            f"{'given' if bias is not None else 'None'}, use_bias={module.use_bias}. "
            f"Pass force_bias=False to leave it out."
        )
    copy = None if bias is None else bias.detach().clone()
    return layer_like(module.layer, weight.detach().clone(), copy)


@torch.no_grad()
def scale_layer(layer: nn.Module, scale: float) -> nn.Module:
    """Multiply the weight and bias of a layer in place; returns the layer."""
    for parameter in layer.parameters(recurse=False):
        parameter.mul_(scale)
    return layer


def check_statistics_shapes(
    layer: Layer, s_shape: tuple[int, int] | None, m_shape: tuple[int, int] | None
) -> None:
    """Raise a ValueError where shapes that S and M are said to have are not those of the layer."""
    num_inputs = fan_in(layer.weight) + int(layer.bias is not None)
    for name, given, right in (
        ("tensor_s_shape", s_shape, (num_inputs, num_inputs)),
        ("tensor_m_shape", m_shape, (num_inputs, layer.weight.shape[0])),
    ):
        if given is not None and tuple(given) != right:
            raise ValueError(f"{name} must be {right} for {layer}; got {given}. Leave it out.")


def new_linear(num_in: int, num_out: int, use_bias: bool, device: torch.device | None) -> nn.Linear:
    """A new nn.Linear, also without neurons on one side."""
    if num_in and num_out:
        return nn.Linear(num_in, num_out, bias=use_bias, device=device)
    layer = nn.Linear(1, 1, bias=use_bias, device=device)
    return _emptied(layer, num_out, num_in)


def new_conv(
    channels: tuple[int, int],
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int] | str,
    dilation: int | tuple[int, int],
    use_bias: bool,
    device: torch.device | str | None,
) -> nn.Conv2d:
    """A new nn.Conv2d of (in, out) channels, also without channels on one side."""
    num_in, num_out = channels
    layer = nn.Conv2d(
        max(num_in, 1), max(num_out, 1), kernel_size, stride, padding, dilation, bias=use_bias, device=device
    )
    return layer if num_in and num_out else _emptied(layer, num_out, num_in)


def set_padding(layer: nn.Conv2d, padding: int | tuple[int, int] | str) -> None:
    """Give a convolution another padding.

    Raises:
        ValueError: it is no number or pair of numbers from 0 up, nor 'valid' nor, at stride 1, 'same'.
    """
    pair = (padding, padding) if isinstance(padding, int) else padding
    known = pair in ("valid", "same") if isinstance(pair, str) else len(pair) == 2 and min(pair) >= 0
    if not known or (pair == "same" and tuple(layer.stride) != (1, 1)):
        raise ValueError(
            f"padding must be a number or a pair of numbers from 0 up, 'valid', or 'same' at stride 1; got "
            f"{padding!r} at stride {tuple(layer.stride)}."
        )
    # A layer of that padding knows how its other padding modes pad.
    like = nn.Conv2d(
        1, 1, (layer.kernel_size[0], layer.kernel_size[1]), padding=pair,
        dilation=(layer.dilation[0], layer.dilation[1]), padding_mode=layer.padding_mode, device="meta",
    )  # fmt: skip
    layer.padding = like.padding
    layer._reversed_padding_repeated_twice = like._reversed_padding_repeated_twice


def _emptied(layer: LayerKind, num_out: int, num_in: int) -> LayerKind:
    """The layer without neurons on one side; torch warns when it initialises such a one itself."""
    weight = layer.weight.new_zeros(num_out, num_in, *layer.weight.shape[2:])
    replace_parameters(layer, weight, None if layer.bias is None else layer.bias.new_zeros(num_out))
    return layer


def split_bias(matrix: Tensor, has_bias: bool) -> tuple[Tensor, Tensor | None]:
    """Rows whose last entry is the bias, as the weight's part and the bias."""
    return (matrix[:, :-1], matrix[:, -1]) if has_bias else (matrix, None)
