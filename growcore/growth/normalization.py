"""What follows a layer, growing with it: normalisation gains channels, elementwise functions stay.

New channels of a BatchNorm start as the identity on what they will see. LayerNorm and GroupNorm mix the
channels of a sample, so new ones would move the old: they go past the normalisation, and only the affine map
acts on them. So a growth changes the network by its new weights alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AdaptiveMaxPoolNd, _MaxPoolNd

# Parts with no say in the slope at 0 of what one new channel gives: 1 for all of them.
_NOT_ELEMENTWISE = (_DropoutNd, nn.Flatten, nn.AvgPool2d, nn.AdaptiveAvgPool2d, _MaxPoolNd)


@runtime_checkable
class GrowableFunction(Protocol):
    """A function of the user's own that holds a value per channel and can gain some."""

    def grow(self, num_new: int) -> None:
        """Append `num_new` channels that act as the identity."""


class GrowingLayerNorm(nn.LayerNorm):
    """LayerNorm over the features it began with; features gained later pass it by.

    `num_normalized` is saved with the weights. Built as an nn.LayerNorm of one dimension; a post-layer
    function's own nn.LayerNorm becomes one when it first grows.
    """

    num_normalized: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, elementwise_affine: bool = True) -> None:
        super().__init__(num_features, eps, elementwise_affine)
        self.register_buffer("num_normalized", torch.tensor(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., features)."""
        n = int(self.num_normalized)
        inner = nn.functional.layer_norm(x[..., :n], (n,), eps=self.eps)
        y = torch.cat([inner, x[..., n:]], dim=-1)
        return y if self.weight is None else y * self.weight + (0.0 if self.bias is None else self.bias)

    def grow(self, num_new: int) -> None:
        """Append features that pass unchanged."""
        _append_affine(self, num_new)
        self.normalized_shape = (self.normalized_shape[0] + num_new,)


class GrowingGroupNorm(nn.GroupNorm):
    """GroupNorm over the channels it began with; channels gained later pass it by.

    `num_normalized` is saved with the weights. A post-layer function's own nn.GroupNorm becomes one when it
    first grows.
    """

    num_normalized: Tensor

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__(num_groups, num_channels, eps, affine)
        self.register_buffer("num_normalized", torch.tensor(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, channels, ...)."""
        n = int(self.num_normalized)
        y = torch.cat([nn.functional.group_norm(x[:, :n], self.num_groups, eps=self.eps), x[:, n:]], dim=1)
        if not self.affine:
            return y
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return y * self.weight.view(shape) + self.bias.view(shape)

    def grow(self, num_new: int) -> None:
        """Append channels that pass unchanged."""
        _append_affine(self, num_new)
        self.num_channels += num_new


@torch.no_grad()
def grow_function(
    function: nn.Module, num_new: int, mean: Tensor | None = None, variance: Tensor | None = None
) -> nn.Module:
    """Append channels to every part of a post-layer function that keeps values per channel.

    Args:
        function: what follows the layer; a Sequential is entered.
        num_new: number of new channels.
        mean: (num_new,) expected values of the new pre-activations; None: 0.
        variance: (num_new,) their variances; None: 1.

    Returns:
        the function, or what takes its place.

    Raises:
        ValueError: a part keeps parameters or buffers and is not known to grow.
    """
    check_growable(function)
    function = _mixing_replaced(function)
    for part in parts(function):
        if isinstance(part, _BatchNorm):
            _grow_batch_norm(part, num_new, mean, variance)
        elif isinstance(part, GrowableFunction):
            part.grow(num_new)
        elif not isinstance(part, nn.Identity | _DropoutNd):
            # Behind a nonlinearity the moments of the pre-activation no longer describe what arrives.
            mean = variance = None
    return function


def check_growable(function: nn.Module, name: str = "a growing layer") -> None:
    """Raise a ValueError where a part of the function after the layer of that name cannot gain channels."""
    for part in parts(function):
        if isinstance(part, nn.LayerNorm) and len(part.normalized_shape) != 1:
            raise ValueError(
                f"A LayerNorm grows over features alone; {name} is followed by one of "
                f"normalized_shape={part.normalized_shape}. Use GroupNorm or BatchNorm after a convolution."
            )
        if isinstance(part, _BatchNorm | nn.LayerNorm | nn.GroupNorm | GrowableFunction):
            continue
        if not _is_shared_by_channels(part):
            raise ValueError(
                f"What follows {name} must grow with it; {type(part).__name__} keeps values "
                f"per channel and is not known to. Give it a method grow(num_new), or move it."
            )


def apply_to_extension(function: nn.Module, x_ext: Tensor) -> Tensor:
    """What the function gives for new channels alone: normalisation is the identity on them."""
    for part in parts(function):
        if not _is_identity_on_new(part):
            x_ext = cast(Tensor, part(x_ext))
    return x_ext


def derivative_at_zero(function: nn.Module, at: float = 1e-7) -> float:
    """Derivative at 0+ of the elementwise part of a function: 1 for ReLU, 0.25 for sigmoid.

    At exactly 0 (`at=0.0`) autograd gives 0 for ReLU: a neuron that is silent there gets no gradient.
    """
    return derivative_of_sum([function], nn.Identity(), at)


def derivative_of_sum(functions: Sequence[nn.Module], behind: nn.Module, at: float) -> float:
    """Derivative by the first argument of behind(sum of f(x)) where all arguments are `at`, elementwise."""
    with torch.enable_grad():
        x = torch.full((1, 1), at, dtype=torch.float64, device="cpu")
        first = x.clone().requires_grad_()
        terms = [elementwise(f, x if index else first) for index, f in enumerate(functions)]
        y = elementwise(behind, torch.stack(terms).sum(0))
        (gradient,) = torch.autograd.grad(y.sum(), first)
    return float(gradient)


@torch.no_grad()
def value_at_zero(functions: Sequence[nn.Module], behind: nn.Module) -> float:
    """behind(sum of f(0)), elementwise: what new neurons give whose weights are 0."""
    zero = torch.zeros((1, 1), dtype=torch.float64, device="cpu")
    return float(elementwise(behind, torch.stack([elementwise(f, zero) for f in functions]).sum(0)))


def elementwise(function: nn.Module, x: Tensor) -> Tensor:
    """What the elementwise parts of a function give in double precision; the others leave x as it is."""
    y = x.clone()  # a function may work in place
    for part in parts(function):
        if isinstance(part, nn.PReLU):
            weight = part.weight.detach().to(y)
            y = torch.where(y > 0, y, y * weight[:1])
        elif not (_is_identity_on_new(part) or isinstance(part, _NOT_ELEMENTWISE)):
            y = part(y)
    return y


def spatial_part(function: nn.Module, maps_NCHW: Tensor) -> Tensor:
    """Pooling and flattening of a function, which act on maps of any channels alike, (N, C, positions).

    Raises:
        ValueError: a part mixes positions in a way that is not linear, such as max pooling.
    """
    for part in parts(function):
        if isinstance(part, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            maps_NCHW = part(maps_NCHW)
        elif isinstance(part, _MaxPoolNd | _AdaptiveMaxPoolNd):
            raise ValueError(
                f"New channels are solved for through linear pooling only; got {type(part).__name__}. "
                f"Use average pooling there, or pool before the merge."
            )
    return maps_NCHW.flatten(2)


def parts(function: nn.Module) -> Iterator[nn.Module]:
    """The functions applied one after another, Sequentials opened."""
    if isinstance(function, nn.Sequential):
        for part in function:
            yield from parts(part)
    else:
        yield function


def _is_identity_on_new(part: nn.Module) -> bool:
    return isinstance(part, _BatchNorm | nn.LayerNorm | nn.GroupNorm | GrowableFunction)


def _is_shared_by_channels(part: nn.Module) -> bool:
    if isinstance(part, _InstanceNorm):
        return False
    if isinstance(part, nn.PReLU):
        return part.num_parameters == 1
    return not list(part.parameters()) and not list(part.buffers())


def _mixing_replaced(function: nn.Module) -> nn.Module:
    """The function with every plain LayerNorm and GroupNorm replaced by its growing kind, weights kept."""
    if isinstance(function, nn.Sequential):
        for index, part in enumerate(function):
            function[index] = _mixing_replaced(part)
        return function
    grown: GrowingLayerNorm | GrowingGroupNorm
    if type(function) is nn.LayerNorm:
        grown = GrowingLayerNorm(function.normalized_shape[0], function.eps, function.elementwise_affine)
    elif type(function) is nn.GroupNorm:
        grown = GrowingGroupNorm(function.num_groups, function.num_channels, function.eps, function.affine)
    else:
        return function
    grown.weight, grown.bias = function.weight, function.bias
    return grown.train(function.training)


def _append_affine(norm: GrowingLayerNorm | GrowingGroupNorm, num_new: int) -> None:
    if norm.weight is not None:
        norm.weight = _longer(norm.weight, norm.weight.new_ones(num_new))
    if norm.bias is not None:
        norm.bias = _longer(norm.bias, norm.bias.new_zeros(num_new))


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
