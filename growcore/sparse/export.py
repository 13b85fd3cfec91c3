"""From a pruned or grown network to a plain one: dense layers, masks applied, without empty channels.

A channel is *empty* if nobody reads it, or if all its incoming weights are zero; then it is a constant,
which moves into the bias of the layer that reads it. Where zero padding makes that constant differ
at the border, the channel stays.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from growcore.sparse.layers import DSConv2d, DSLinear
from growcore.sparse.tracing import Layer, LayerPair, trace

# What may stand between two layers: each channel is mapped on its own, and a constant one stays constant.
CHANNELWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.Tanh,
    nn.GELU,
    nn.Sigmoid,
    nn.Identity,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Flatten,
)


_SPATIAL = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten)


@runtime_checkable
class LayerWithFunction(Protocol):
    """A module that is a layer and the function after it, as growing modules are."""

    layer: Layer
    post_layer_function: nn.Module


@runtime_checkable
class MergeWithFunction(Protocol):
    """A module that is given a sum and applies a function to it, as merges do."""

    post_merge_function: nn.Module


def plain(layer: DSConv2d | DSLinear) -> Layer:
    """A torch layer with the weights in effect: zero where pruned. Shares nothing with the sparse one."""
    weight = layer.masked_weight().detach().clone()
    if isinstance(layer, DSConv2d):
        made: Layer = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            device="meta",
        )
    else:
        made = nn.Linear(weight.shape[1], weight.shape[0], layer.bias is not None, device="meta")
    _set(made, weight, None if layer.bias is None else layer.bias.detach().clone())
    return made.train(layer.training)


def bake(model: nn.Module) -> nn.Module:
    """A plain copy of a model: sparse and growing layers become torch's own, empty channels are removed.

    Channels are removed between neighbours: a convolution or linear layer, then modules of CHANNELWISE,
    then the only layer that reads them. The copy is for inference: its outputs equal those of the model
    in evaluation mode.

    Args:
        model: any module; it stays as it is. Where its forward pass depends on what it is given, channels
            are removed within every `nn.Sequential` alone.

    Returns:
        the copy, in evaluation mode: an `nn.Sequential` where the network is a chain (a GrowingMLP, a
        GrowingConvNet); one that branches keeps its class, with plain layers inside.

    Raises:
        ValueError: a layer without neurons, which torch's own layers do not compute.
    """
    baked = _replaced(copy.deepcopy(model)).eval()
    network = trace(baked)
    chain = None if network is None else network.chain()
    if chain is not None and not isinstance(baked, nn.Sequential):
        baked = nn.Sequential(*chain).eval()
        network = trace(baked)
    parts = [module for module in baked.modules() if isinstance(module, nn.Sequential)]
    for traced in [network] if network is not None else [trace(part) for part in parts]:
        if traced is not None:
            _remove_empty_channels(traced.pairs())
    return baked


def two_of_four(weight: Tensor) -> Tensor:
    """The 2:4 pattern that sparse tensor cores accelerate: of each 4 inputs the 2 largest weights.

    Args:
        weight: O x C x ...; groups of four run along the flattened inputs of each output.

    Returns:
        bool, shaped like the weight; of equal weights the lower index stays.

    Raises:
        ValueError: the number of inputs is no multiple of 4.
    """
    if weight[0].numel() % 4:
        raise ValueError(
            f"a 2:4 mask needs a multiple of 4 inputs to each output; got {weight[0].numel()} of shape "
            f"{tuple(weight.shape)}. Widen the input, or prune this layer freely."
        )
    fours = weight.detach().abs().reshape(-1, 4)
    order = fours.argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(fours, dtype=torch.bool).scatter_(1, order[:, :2], True)
    return mask.reshape(weight.shape)


@torch.no_grad()
def without_outputs(layer: Layer, keep: Tensor) -> None:
    """Remove the output neurons (channels) where `keep` is False, in place; groups are not supported."""
    _check_ungrouped(layer)
    _set(layer, layer.weight[keep], None if layer.bias is None else layer.bias[keep])


@torch.no_grad()
def without_inputs(layer: Layer, keep: Tensor) -> None:
    """Remove the weights that read the inputs where `keep` is False, in place.

    Args:
        layer: an ungrouped convolution, or a linear layer, which may read several columns of each neuron
            (a flattened map).
        keep: bool, one for each neuron of the layer before.
    """
    _check_ungrouped(layer)
    columns = keep.repeat_interleave(layer.weight.shape[1] // keep.shape[0])
    _set(layer, layer.weight[:, columns], layer.bias)


@torch.no_grad()
def without_features(norm: nn.BatchNorm1d | nn.BatchNorm2d, keep: Tensor) -> None:
    """Remove the features of a batch normalisation where `keep` is False, in place."""
    for name, tensor in [*norm.named_parameters(), *norm.named_buffers()]:
        if tensor.dim() == 1:
            value = tensor[keep].clone()
            setattr(norm, name, nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value)
    norm.num_features = int(keep.sum())


def _replaced(module: nn.Module) -> nn.Module:
    if isinstance(module, LayerWithFunction):
        return nn.Sequential(_replaced(module.layer), *_steps(module.post_layer_function))
    if isinstance(module, MergeWithFunction):
        return nn.Sequential(*_steps(module.post_merge_function))
    if isinstance(module, Layer) and module.weight.numel() == 0:
        raise ValueError(
            f"a layer without neurons has no plain counterpart; got {module} with a weight of shape "
            f"{tuple(module.weight.shape)}. Let it grow first, or leave it out of the network."
        )
    if isinstance(module, DSConv2d | DSLinear):
        return plain(module)
    for name, child in list(module.named_children()):
        setattr(module, name, _replaced(child))
    return module


def _steps(function: nn.Module) -> list[nn.Module]:
    """The plain parts of a function, applied one after another."""
    steps = _flattened(nn.Sequential(_replaced(function)))
    return [step for step in steps if not isinstance(step, nn.Identity)]


@torch.no_grad()
def _remove_empty_channels(pairs: list[LayerPair]) -> None:
    shrinking = True
    while shrinking:
        # A channel that goes may leave those before it unread, and those after it constant.
        shrinking = False
        for pair in pairs:
            shrinking |= _removable(*pair) and _shrink(*pair)


def _flattened(chain: nn.Sequential) -> Iterator[nn.Module]:
    for module in chain:
        if isinstance(module, nn.Sequential):
            yield from _flattened(module)
        else:
            yield module


def _removable(producer: Layer, between: list[nn.Module], consumer: Layer) -> bool:
    if any(not isinstance(module, CHANNELWISE) for module in between):
        return False
    if any(isinstance(module, nn.AvgPool2d) and module.padding not in (0, (0, 0)) for module in between):
        return False
    if any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in (producer, consumer)):
        return False
    num_neurons = producer.weight.shape[0]
    norms = [module for module in between if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    if any(norm.num_features != num_neurons for norm in norms):
        return False
    if isinstance(producer, nn.Conv2d) and isinstance(consumer, nn.Linear):
        return any(isinstance(module, nn.Flatten) and module.start_dim == 1 for module in between)
    return consumer.weight.shape[1] == num_neurons


def _shrink(producer: Layer, between: list[nn.Module], consumer: Layer) -> bool:
    """Remove the empty channels between two layers; whether there were any."""
    num_neurons = producer.weight.shape[0]
    outgoing = consumer.weight.reshape(consumer.weight.shape[0], num_neurons, -1)
    unread = (outgoing == 0).all(dim=2).all(dim=0)
    constant = (producer.weight.flatten(1) == 0).all(dim=1)
    values = _constants(producer, between)
    if _sees_border(consumer):
        constant = constant & (values == 0)
    keep = ~(unread | constant)
    keep[0] |= not bool(keep.any())  # a layer keeps one channel
    if bool(keep.all()):
        return False
    moved = ~keep & constant
    if bool((values[moved] != 0).any()):
        shift = (outgoing.sum(2)[:, moved] * values[moved]).sum(1)
        bias = shift if consumer.bias is None else consumer.bias + shift
        consumer.bias = nn.Parameter(bias)
    without_outputs(producer, keep)
    for module in between:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            without_features(module, keep)
    without_inputs(consumer, keep)
    return True


def _constants(producer: Layer, between: list[nn.Module]) -> Tensor:
    """What the consumer reads of each channel if its incoming weights are zero: its bias, passed on."""
    bias = producer.bias if producer.bias is not None else producer.weight.new_zeros(producer.weight.shape[0])
    value = bias[None, :, None, None] if isinstance(producer, nn.Conv2d) else bias[None]
    for module in between:
        # Pooling and flattening leave a constant as it is, whatever the size of the map.
        if not isinstance(module, _SPATIAL):
            value = module(value)
    return value.flatten()


def _sees_border(consumer: Layer) -> bool:
    if not isinstance(consumer, nn.Conv2d) or consumer.padding_mode != "zeros":
        return False
    if isinstance(consumer.padding, str):
        return consumer.padding == "same" and consumer.weight[0, 0].numel() > 1
    return any(size > 0 for size in consumer.padding)


def _check_ungrouped(layer: Layer) -> None:
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        raise ValueError(
            f"channels of a grouped convolution cannot be removed one by one; got groups={layer.groups}. "
            "Leave the layer as it is."
        )


def _set(layer: Layer, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight.detach())
    layer.bias = None if bias is None else nn.Parameter(bias.detach())
    if isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = weight.shape[0], weight.shape[1] * layer.groups
    else:
        layer.out_features, layer.in_features = weight.shape
