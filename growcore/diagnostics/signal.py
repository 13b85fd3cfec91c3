"""What one batch looks like on its way through a model and its gradient on the way back.

Letters: B batch, n units of a layer (channels of a convolution), z a preactivation, g = dL/dz.
Both directions are measured so that width drops out: variances of z are means over units, gradients
are summed over them. A layer then multiplies the one by chi_par or chi_perp and the other by chi_perp.

[RoyVetterli2007] The effective rank, EUSIPCO 2007.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSignal:
    """One linear or convolution layer on one batch; a value that is not finite was not so in the model."""

    layer: str
    num_units: int  # n
    weight_variance: float  # C_W: fan_in times the mean square of the weights
    input_square: float  # mean square of what enters
    output_square: float  # mean of z^2 over batch, units and positions
    output_variance: float  # ... of z minus its mean over the batch: what tells inputs apart
    gradient_square: float  # squared gradient summed over units and positions, relative to the last layer's
    blocked_fraction: float  # of units that no sample sends a gradient to, whatever they give
    saturated_fraction: float  # values that a sigmoid or tanh passes on with < 1% of its largest slope
    effective_rank: float  # directions in which z varies over the batch, in [1, n]; 0 where it does not


def measure_signal(
    model: nn.Module, x: Tensor, targets: Tensor, loss_fn: LossFunction = nn.functional.cross_entropy
) -> list[LayerSignal]:
    """Signal and gradient at every linear and convolution layer, in order of the forward pass.

    Works on a copy: parameters, gradients, running statistics, accumulated strengths and random
    states stay as they are. A layer called twice appears twice.

    Args:
        model: any module whose linear and convolution layers map x to what `loss_fn` takes.
        x: a batch of at least 2 inputs.
        targets: what `loss_fn` compares the output with.
        loss_fn: gives a scalar, mean or sum over the batch.

    Raises:
        ValueError: fewer than 2 inputs, or no linear or convolution layer was called.
    """
    if len(x) < 2:
        raise ValueError(
            f"a signal is what differs between inputs, so it needs at least 2; got a batch of {len(x)}. "
            "Pass a training batch."
        )
    passes = _run(copy.deepcopy(model), x, targets, loss_fn)
    if not passes:
        raise ValueError("the model called no linear or convolution layer; got none to measure. Add one.")
    last_gradient = _gradient_square(passes[-1])
    return [_summarise(one, last_gradient) for one in passes]


@dataclass(slots=True)
class _Pass:
    """One call of one layer; the tensors are held until it is summarised."""

    layer: str
    module: nn.Linear | nn.Conv2d
    x: Tensor
    z: Tensor
    saturated: list[float] = field(default_factory=list)


class _Saturation(TorchFunctionMode):
    """Watches sigmoid and tanh, as modules or functions, and books them to the layer called last."""

    def __init__(self, passes: list[_Pass]) -> None:
        super().__init__()
        self.passes = passes

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if self.passes and func in _RELATIVE_SLOPES:
            slope = _RELATIVE_SLOPES[func](result.detach())
            self.passes[-1].saturated.append(float((slope < 0.01).double().mean()))
        return result


def _slope_of_sigmoid(y: Tensor) -> Tensor:
    return 4 * y * (1 - y)


def _slope_of_tanh(y: Tensor) -> Tensor:
    return 1 - y.square()


_RELATIVE_SLOPES: dict[Callable[..., Tensor], Callable[[Tensor], Tensor]] = {
    torch.sigmoid: _slope_of_sigmoid,
    Tensor.sigmoid: _slope_of_sigmoid,
    torch.tanh: _slope_of_tanh,
    Tensor.tanh: _slope_of_tanh,
}


def _run(model: nn.Module, x: Tensor, targets: Tensor, loss_fn: LossFunction) -> list[_Pass]:
    passes: list[_Pass] = []

    def watch(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Linear | nn.Conv2d, inputs: tuple[Tensor, ...], z: Tensor) -> Tensor:
            if z.requires_grad:  # not under a no_grad of the model's own
                z.retain_grad()
            passes.append(_Pass(name, module, inputs[0].detach(), z))
            # An activation that works in place would overwrite z.
            return z.clone()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.requires_grad_()  # a frozen layer still has to pass a gradient on
            module.register_forward_hook(watch(name))
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        with _Saturation(passes):
            output = model(x)
        loss_fn(output, targets).backward()
    return passes


def _summarise(one: _Pass, last_gradient: float) -> LayerSignal:
    z, g = one.z.detach().double(), _gradient(one).double()
    weight = one.module.weight.detach().double()
    return LayerSignal(
        layer=one.layer,
        num_units=len(weight),
        weight_variance=float(weight.square().mean()) * weight[0].numel(),
        input_square=float(one.x.double().square().mean()),
        output_square=float(z.square().mean()),
        output_variance=float(z.var(0, unbiased=False).mean()),
        gradient_square=_gradient_square(one) / last_gradient if last_gradient != 0 else 0.0,
        blocked_fraction=float((_rows(one, g) == 0).all(0).double().mean()),
        saturated_fraction=max(one.saturated, default=0.0),
        effective_rank=_effective_rank(_rows(one, z)),
    )


def _gradient(one: _Pass) -> Tensor:
    return torch.zeros_like(one.z) if one.z.grad is None else one.z.grad


def _gradient_square(one: _Pass) -> float:
    return float(_gradient(one).double().square().sum())


def _rows(one: _Pass, values: Tensor) -> Tensor:
    """One column per unit; samples and positions are rows."""
    is_map = isinstance(one.module, nn.Conv2d)
    return (values.movedim(1, -1) if is_map else values).flatten(0, -2)


def _effective_rank(z_Rn: Tensor) -> float:
    """exp(entropy) of the spectrum of the covariance over rows [RoyVetterli2007]."""
    if not torch.isfinite(z_Rn).all():
        return 0.0
    # A few thousand rows fix the spectrum of some hundred units.
    z_Rn = z_Rn[:: max(1, len(z_Rn) // 4096)]
    centred = z_Rn - z_Rn.mean(0)
    scale = centred.abs().max()
    if scale == 0:
        return 0.0
    centred = centred / scale  # squares of a vanishing signal must not underflow
    wide = centred.shape[0] < centred.shape[1]
    share = torch.linalg.eigvalsh(centred @ centred.T if wide else centred.T @ centred).clamp_min(0)
    share = share / share.sum()
    return float(torch.special.entr(share).sum().exp())
