"""Whether what a network says can depend on what it sees: paths of connections from input to outputs.

A copy of the network is asked, in which every connection that lives has a positive weight, the others none,
and normalisation only passes on. Nothing can cancel in it, so an output has a gradient with respect to the
input exactly where a path leads to it. A connection of a sparse layer lives where its mask says so (one that
has just restarted at zero learns at once), one of another layer where its weight is not 0.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from growcore.networks.models import layer_name
from growcore.sparse import SparseConnections


@dataclass(frozen=True, slots=True)
class Paths:
    """Which outputs of a network can be reached from its input."""

    reached: tuple[bool, ...]  # by output
    cut_at: str | None  # the first layer that nothing of the input passes; None where one output is reached

    @property
    def num_unreached(self) -> int:
        """Outputs that are the same whatever the network sees."""
        return self.reached.count(False)

    def __str__(self) -> str:
        if self.cut_at is not None:
            return (
                f"no path leads from the input to any output; {self.cut_at} is the first that nothing passes"
            )
        return f"no path leads from the input to {self.num_unreached} of {len(self.reached)} outputs"


def find_paths(model: nn.Module, image_shape: Sequence[int]) -> Paths:
    """Which outputs can be reached from the input through connections that live.

    Args:
        model: gives logits, N x classes; it stays as it is, and nothing random is drawn.
        image_shape: of one input: channels, height, width.
    """
    copied = _positive(copy.deepcopy(model))
    passes: list[tuple[str, Tensor, Tensor]] = []
    for name, module in copied.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda _m, inputs, z, name=name: passes.append((name, inputs[0], z)))
    weight = next(copied.parameters())
    with torch.enable_grad():
        x_1CHW = _drawn((1, *image_shape), torch.Generator().manual_seed(0)).to(weight)
        num_outputs = copied(x_1CHW).shape[1]
        passes.clear()
        # One image for each output: what reaches it is the gradient of that image.
        x_KCHW = x_1CHW.expand(num_outputs, *image_shape).clone().requires_grad_()
        logits_KK = copied(x_KCHW)
        (gradient,) = torch.autograd.grad(
            logits_KK.diagonal().sum(), x_KCHW, retain_graph=True, materialize_grads=True
        )
        reached = (gradient.flatten(1) != 0).any(1)
        cut_at = None if reached.any() else _cut_at(passes, x_KCHW)
    return Paths(tuple(reached.tolist()), cut_at)


def every_unit_reads(model: nn.Module) -> bool:
    """Whether every unit of every layer has a connection in: then all outputs are reached, at a glance."""
    return all(
        bool(_alive(module).flatten(1).any(1).all())
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    )


def _alive(layer: nn.Linear | nn.Conv2d) -> Tensor:
    return layer.mask if isinstance(layer, SparseConnections) else layer.weight != 0


def _cut_at(passes: Sequence[tuple[str, Tensor, Tensor]], x: Tensor) -> str:
    """The first layer whose output does not depend on the input, or the last one."""
    for name, _, z in passes:
        if not z.requires_grad:
            return _seen(name)
        (gradient,) = torch.autograd.grad(z.sum(), x, retain_graph=True, materialize_grads=True)
        if not gradient.any():
            return _seen(name)
    return _seen(passes[-1][0]) if passes else "the network"


def _seen(name: str) -> str:
    return layer_name(name.removesuffix(".layer"))


@torch.no_grad()
def _positive(model: nn.Module) -> nn.Module:
    """The model with positive weights where connections live, in evaluation mode, at least in float32."""
    model = model.eval()
    if next(model.parameters()).dtype.itemsize < 4:
        model = model.float()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            alive = _alive(module)
            # Each output is a mean of what it reads, so that no function saturates.
            fan_in = alive.flatten(1).sum(1).clamp_min(1).reshape(-1, *(1,) * (alive.dim() - 1))
            drawn = 2 * _drawn(alive.shape, generator).to(module.weight)
            module.weight.copy_(torch.where(alive, drawn / fan_in, 0))
            if module.bias is not None:
                module.bias.zero_()
        elif not isinstance(module, nn.PReLU):
            for parameter in module.parameters(recurse=False):
                parameter.abs_()
    return _without_norms(model)


def _without_norms(module: nn.Module) -> nn.Module:
    if isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm):
        return _Passing(module)
    for name, child in list(module.named_children()):
        setattr(module, name, _without_norms(child))
    return module


class _Passing(nn.Module):
    """What a normalisation lets through: channels whose weight is not 0."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        weight = getattr(norm, "weight", None)
        self.is_features_last = isinstance(norm, nn.LayerNorm)
        self.register_buffer("passes", None if weight is None else (weight != 0).to(weight))

    def forward(self, x: Tensor) -> Tensor:
        if self.passes is None or x.numel() == 0:
            return x
        assert isinstance(self.passes, Tensor)
        if self.is_features_last:
            return x * self.passes
        return x * self.passes.view(1, -1, *(1,) * (x.dim() - 2))


def _drawn(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Numbers about 0.5, all different, so that nothing cancels by chance in a function that subtracts."""
    return torch.rand(tuple(shape), generator=generator) * 0.5 + 0.25
