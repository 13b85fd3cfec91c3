"""What follows a layer, growing with it: normalisation gains channels, elementwise functions stay.

New channels of a BatchNorm start as the identity on what they will see, so that a growth changes the
network by its new weights alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


@runtime_checkable
class GrowableFunction(Protocol):
    """A function of the user's own that holds a value per channel and can gain some."""

    def grow(self, num_new: int) -> None:
        """Append `num_new` channels that act as the identity."""


@torch.no_grad()
def grow_function(
    function: nn.Module, num_new: int, mean: Tensor | None = None, variance: Tensor | None = None
) -> None:
    """Append channels to every part of a post-layer function that keeps values per channel.

    Args:
        function: what follows the layer; a Sequential is entered.
        num_new: number of new channels.
        mean: (num_new,) expected values of the new pre-activations; None: 0.
        variance: (num_new,) their variances; None: 1.

    Raises:
        ValueError: a part keeps parameters or buffers and is not known to grow.
    """
    check_growable(function)
    for part in parts(function):
        if isinstance(part, _BatchNorm):
            _grow_batch_norm(part, num_new, mean, variance)
        elif isinstance(part, GrowableFunction):
            part.grow(num_new)
        elif not isinstance(part, nn.Identity | _DropoutNd):
            # Behind a nonlinearity the moments of the pre-activation no longer describe what arrives.
            mean = variance = None


def check_growable(function: nn.Module) -> None:
    """Raise a ValueError where a part of the function cannot gain channels."""
    for part in parts(function):
        if isinstance(part, _BatchNorm | GrowableFunction) or _is_shared_by_channels(part):
            continue
        raise ValueError(
            f"A function after a growing layer must grow with it; {type(part).__name__} keeps parameters or "
            f"buffers per channel and is not known to. Give it a method grow(num_new), or move it."
        )


def apply_to_extension(function: nn.Module, x_ext: Tensor) -> Tensor:
    """What the function gives for new channels alone: BatchNorm is the identity on them."""
    for part in parts(function):
        if not isinstance(part, _BatchNorm | GrowableFunction):
            x_ext = cast(Tensor, part(x_ext))
    return x_ext


def derivative_at_zero(function: nn.Module) -> float:
    """Derivative at 0+ of the elementwise part of a function: 1 for ReLU, 0.25 for sigmoid."""
    with torch.enable_grad():
        x = torch.full((1, 1), 1e-7, dtype=torch.float64, device="cpu", requires_grad=True)
        y = x.clone()  # a function may work in place
        for part in parts(function):
            if not isinstance(part, _BatchNorm | _DropoutNd | GrowableFunction | nn.PReLU):
                y = part(y)
        (gradient,) = torch.autograd.grad(y.sum(), x)
    return float(gradient)


def parts(function: nn.Module) -> Iterator[nn.Module]:
    """The functions applied one after another, Sequentials opened."""
    if isinstance(function, nn.Sequential):
        for part in function:
            yield from parts(part)
    else:
        yield function


def _is_shared_by_channels(part: nn.Module) -> bool:
    if isinstance(part, nn.PReLU):
        return part.num_parameters == 1
    return not list(part.parameters()) and not list(part.buffers())


def _grow_batch_norm(norm: _BatchNorm, num_new: int, mean: Tensor | None, variance: Tensor | None) -> None:
    reference = norm.running_mean if norm.running_mean is not None else norm.weight
    if reference is not None:
        if mean is None or variance is None:
            mean, variance = reference.new_zeros(num_new), reference.new_ones(num_new)
        mean, variance = mean.to(reference), variance.to(reference).clamp(min=0)
        if norm.affine:
            norm.weight = _longer(norm.weight, (variance + norm.eps).sqrt())
            norm.bias = _longer(norm.bias, mean)
        elif norm.track_running_stats:
            # Without an affine map only statistics that normalise to nothing keep the new values as they are.
            mean, variance = torch.zeros_like(mean), torch.ones_like(variance) - norm.eps
        if norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean = torch.cat([norm.running_mean, mean])
            norm.running_var = torch.cat([norm.running_var, variance])
    norm.num_features += num_new


def _longer(parameter: nn.Parameter, new: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.cat([parameter.detach(), new]), requires_grad=parameter.requires_grad)
