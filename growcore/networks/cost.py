"""What a model costs as it is now: parameters, non-zero parameters, FLOPs of a forward and a training step.

A multiply-add counts 2. Counted are convolutions and linear layers (subclasses included); biases,
normalisations and nonlinearities are left out, as `torch.utils.flop_counter` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from growcore.networks.modes import evaluating

Layer = nn.Linear | nn.Conv2d
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Cost:
    """Counts of a whole model; FLOPs are those of one sample."""

    parameters: int
    nonzero_parameters: int
    forward_flops: int  # dense: what a forward pass executes
    sparse_forward_flops: int  # the same with non-zero weights only
    training_flops: int  # dense: a forward and a backward pass
    sparse_training_flops: int


def measure(model: nn.Module, image_shape: Sequence[int]) -> Cost:
    """Cost of a model for one sample of shape `image_shape` (C, H, W), found by running it once.

    The model is left in the mode it was in; nothing that training counts is touched.
    """
    layers = _layer_calls(model, image_shape)
    dense = [2 * layer.weight.numel() * calls for layer, calls in layers]
    sparse = [2 * nonzero_weights(layer) * calls for layer, calls in layers]
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        nonzero_parameters=nonzero_parameters(model),
        forward_flops=sum(dense),
        sparse_forward_flops=sum(sparse),
        # A backward pass costs two forwards, except that nobody asks for the gradient of the images.
        training_flops=3 * sum(dense) - sum(dense[:1]),
        sparse_training_flops=3 * sum(sparse) - sum(sparse[:1]),
    )


def forward_flops_by_weight(model: nn.Module, image_shape: Sequence[int]) -> dict[int, int]:
    """Dense forward FLOPs of one sample for each layer, keyed by `id(layer.weight)`."""
    flops: dict[int, int] = {}
    for layer, calls in _layer_calls(model, image_shape):
        key = id(layer.weight)
        flops[key] = flops.get(key, 0) + 2 * layer.weight.numel() * calls
    return flops


def nonzero_parameters(model: nn.Module) -> int:
    """Number of parameters that differ from 0; a pruned connection is one that does not."""
    return sum(int(torch.count_nonzero(p)) for p in model.parameters())


def nonzero_weights(layer: Layer) -> int:
    """Number of weights of a layer that differ from 0."""
    return int(torch.count_nonzero(layer.weight))


def executed_flops(function: Callable[[], Result]) -> tuple[Result, int]:
    """Result of a call and the dense FLOPs that its matrix products and convolutions executed."""
    with _FlopCounter() as counter:
        result = function()
    return result, counter.flops


class _FlopCounter(TorchDispatchMode):
    """Counts by torch's own formulas; its FlopCounterMode cannot be open around `autograd.grad`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


def output_positions(model: nn.Module, image_shape: Sequence[int]) -> dict[int, int]:
    """Positions of the map that each module gives for one sample, keyed by `id(module)`; 1 without a map."""
    positions: dict[int, int] = {}

    def record(module: nn.Module, _inputs: object, output: object) -> None:
        if torch.is_tensor(output):
            positions[id(module)] = math.prod(output.shape[2:])

    _run_once(model, image_shape, list(model.modules()), record)
    return positions


def _layer_calls(model: nn.Module, image_shape: Sequence[int]) -> list[tuple[Layer, int]]:
    """Each linear or convolution layer in call order, with the output positions of one sample."""
    calls: list[tuple[Layer, int]] = []

    def record(layer: nn.Module, _inputs: object, output: object) -> None:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        assert torch.is_tensor(output)
        positions = output[0].numel() // output.shape[-1 if isinstance(layer, nn.Linear) else 1]
        calls.append((layer, positions))

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    _run_once(model, image_shape, layers, record)
    return calls


def _run_once(
    model: nn.Module,
    image_shape: Sequence[int],
    watched: Sequence[nn.Module],
    record: Callable[[nn.Module, object, object], None],
) -> None:
    """One forward pass of one empty image in eval mode, with a hook on the watched modules."""
    handles = [module.register_forward_hook(record) for module in watched]
    parameter = next(model.parameters())
    x_NCHW = torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)
    try:
        with evaluating(model), torch.no_grad():
            model(x_NCHW)
    finally:
        for handle in handles:
            handle.remove()
