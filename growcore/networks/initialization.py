"""Variance-aware initialisers: the scale of weights that lets a signal through, for any activation.

Letters, after [Roberts2022]: K is the variance of a preactivation z over random networks, sigma the
activation, C_W / fan_in the variance of a weight, C_b that of a bias, <f>_K the mean of f over
z ~ N(0, K). A layer maps K to C_b + C_W <sigma^2>_K. The parallel susceptibility
chi_par = C_W <sigma^2 (z^2 - K)>_K / (2 K^2) says how a difference of K grows with a layer, the
perpendicular one chi_perp = C_W <sigma'^2>_K how that of two nearby inputs, and of gradients, does.

[He2015] Delving Deep into Rectifiers, arXiv:1502.01852.
[Glorot2010] Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010.
[Roberts2022] The Principles of Deep Learning Theory, arXiv:2106.10165, sections 3.3, 5.1 to 5.4.
[Saxe2014] Exact solutions to the nonlinear dynamics of learning, arXiv:1312.6120.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from growcore.config import Activation, suggest_name

ActivationFunction = Callable[[Tensor], Tensor]

SCHEMES = (
    "kaiming_uniform",
    "kaiming_normal",
    "xavier_uniform",
    "xavier_normal",
    "orthogonal",
    "critical",
    "uniform",
)

_FUNCTIONS: dict[Activation, ActivationFunction] = {
    Activation.relu: nn.functional.relu,
    Activation.leaky_relu: nn.functional.leaky_relu,
    Activation.tanh: torch.tanh,
    Activation.gelu: nn.functional.gelu,
    Activation.sigmoid: torch.sigmoid,
    Activation.identity: lambda z: z,
}


def activation_function(activation: Activation | ActivationFunction) -> ActivationFunction:
    """The elementwise function behind a name of the configuration; a function stands for itself."""
    return _FUNCTIONS[activation] if isinstance(activation, Activation) else activation


@dataclass(frozen=True, slots=True)
class GaussianMoments:
    """Means over z ~ N(0, K) that decide how a layer of random weights maps K."""

    K: float  # variance of z
    second: float  # <sigma^2>
    fourth: float  # <sigma^4>
    slope: float  # <sigma'^2>, chi_perp at C_W = 1
    kernel_slope: float  # <sigma^2 (z^2 - K)> / (2 K^2), chi_par at C_W = 1


def gaussian_moments(activation: Activation | ActivationFunction, K: float) -> GaussianMoments:
    """Moments of an activation over z ~ N(0, K), by quadrature on both sides of a kink at 0.

    Args:
        activation: a name, or an elementwise function of a float64 tensor that autograd can follow.
        K: variance of the preactivations, above 0.

    Raises:
        ValueError: K is not a positive number.
    """
    if not (K > 0 and math.isfinite(K)):
        raise ValueError(f"a preactivation variance must be positive and finite; got K={K}. Pass K=1.0.")
    t, weights = _nodes()
    z = (math.sqrt(K) * t).requires_grad_()
    with torch.enable_grad():
        s = activation_function(activation)(z)
        (slope,) = torch.autograd.grad(s.sum(), z)
    squared = s.detach().square()
    return GaussianMoments(
        K=K,
        second=float(weights @ squared),
        fourth=float(weights @ squared.square()),
        slope=float(weights @ slope.square()),
        kernel_slope=float(weights @ (squared * (t.square() - 1))) / (2 * K),
    )


def parallel_susceptibility(
    activation: Activation | ActivationFunction, weight_variance: float, K: float
) -> float:
    """chi_par: the factor by which a small change of K grows through a layer with this C_W."""
    return weight_variance * gaussian_moments(activation, K).kernel_slope


def perpendicular_susceptibility(
    activation: Activation | ActivationFunction, weight_variance: float, K: float
) -> float:
    """chi_perp: the factor by which a squared gradient grows through a layer with this C_W."""
    return weight_variance * gaussian_moments(activation, K).slope


@dataclass(frozen=True, slots=True)
class CriticalPoint:
    """Variances at which depth neither kills nor blows up a signal."""

    weight_variance: float  # C_W
    bias_variance: float  # C_b
    K: float  # the fixed point of K; any K is one where the activation is scale invariant
    parallel: float  # chi_par there; 1, except for an activation without a critical point
    perpendicular: float  # chi_perp there: 1


@lru_cache(maxsize=64)
def critical_point(activation: Activation | ActivationFunction) -> CriticalPoint:
    """The C_W and C_b with chi_par = chi_perp = 1 at a fixed point of K, found numerically.

    chi_par = chi_perp does not depend on C_W, so it fixes K (all K: ReLU and other scale invariant
    functions; K = 3.56: GELU; K -> 0: tanh), then chi_perp = 1 fixes C_W and the fixed point C_b.
    A function that would need a negative C_b (sigmoid) has no critical point: for it C_b = 0 and
    chi_perp = 1 are met, so gradients keep their size while K is drawn to its fixed point (chi_par < 1).

    Raises:
        ValueError: no variances keep gradients at their size (a constant function).
    """
    grid = [gaussian_moments(activation, float(K)) for K in np.geomspace(1e-3, 1e3, 61)]
    if min(m.slope for m in grid) == 0:
        raise ValueError(
            "a critical point needs an activation whose derivative is not zero almost everywhere; got "
            f"<sigma'^2> = 0 for {activation}. Use a function with a slope, for example relu."
        )
    if max(abs(_mismatch(m)) for m in grid) < 1e-9:
        return _critical_at(activation, 1.0)
    for low, high in pairwise(grid):
        if _mismatch(low) * _mismatch(high) < 0:
            K = brentq(lambda K: _mismatch(gaussian_moments(activation, K)), low.K, high.K, xtol=1e-12)
            point = _critical_at(activation, float(K))
            if point.bias_variance >= 0:
                return point
    if float(activation_function(activation)(torch.zeros(()))) == 0:
        return _critical_at_zero(activation)
    return _gradient_preserving(activation)


def activation_gain(activation: Activation | ActivationFunction) -> float:
    """sqrt(C_W) that keeps K = 1: 1 / sqrt(<sigma^2>_1); for ReLU the sqrt(2) of [He2015]."""
    return 1 / math.sqrt(gaussian_moments(activation, 1.0).second)


def input_gain(scheme: str, activation: Activation) -> float:
    """Factor on the first layer's weights: with `critical` it puts K at its fixed point at once.

    Inputs of mean square 1 give the first layer K = C_W. Where the fixed point is one of a kind (GELU,
    sigmoid) the other layers would need many to reach it; elsewhere, and for other schemes, it is 1.
    """
    if scheme != "critical":
        return 1.0
    return math.sqrt(critical_point(activation).K or 1.0)


def weight_std(
    fan_in: int,
    scheme: str,
    activation: Activation,
    gain: float = 1.0,
    *,
    fan_out: int | None = None,
) -> float:
    """Standard deviation of one weight drawn by a scheme; what a connection that restarts is drawn with.

    Args:
        fan_in: connections into one neuron (channels per group times kernel area).
        scheme: one of SCHEMES.
        activation: what the layer's input has passed through.
        gain: factor on the result.
        fan_out: connections out of one input; needed by the xavier schemes only.

    Returns:
        kaiming, orthogonal: activation_gain / sqrt(fan_in); xavier: the same with the mean of both fans;
        critical: sqrt(C_W / fan_in); uniform: 1 / sqrt(3 fan_in), torch's default for every activation.

    Raises:
        ValueError: unknown scheme, fans below 1, a gain that is not positive, xavier without fan_out.
    """
    _check(scheme, gain)
    if fan_in < 1 or (fan_out is not None and fan_out < 1):
        raise ValueError(
            f"fans count connections and must be at least 1; got fan_in={fan_in}, fan_out={fan_out}. "
            "Initialise layers that have inputs and outputs."
        )
    if scheme == "critical":
        return gain * math.sqrt(critical_point(activation).weight_variance / fan_in)
    if scheme == "uniform":
        return gain / math.sqrt(3 * fan_in)
    if scheme.startswith("xavier"):
        if fan_out is None:
            raise ValueError(
                f"{scheme} uses both fans; got fan_out=None. Pass fan_out, or use kaiming_normal."
            )
        return gain * activation_gain(activation) * math.sqrt(2 / (fan_in + fan_out))
    return gain * activation_gain(activation) / math.sqrt(fan_in)


def initialize(
    layer: nn.Linear | nn.Conv2d,
    scheme: str,
    activation: Activation,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
) -> None:
    """Draw a layer's weights in place, with the standard deviation of `weight_std`; biases become 0.

    The one exception: `critical` draws biases with variance C_b where the critical point has one (GELU).
    `orthogonal` gives orthonormal rows, or columns where the layer widens, scaled to that deviation.

    Args:
        layer: a linear or convolution layer; groups count as separate fans.
        scheme: one of SCHEMES.
        activation: what the layer's input has passed through.
        gain: factor on the standard deviation of the weights.
        generator: source of randomness; None: torch's global one.

    Raises:
        ValueError: as `weight_std`; the layer is then unchanged.
    """
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    with torch.no_grad():
        draw_weights(layer.weight, scheme, activation, gain, groups=groups, generator=generator)
        if layer.bias is not None:
            _draw_bias(layer.bias, scheme, activation, generator)


@torch.no_grad()
def draw_weights(
    weight: Tensor,
    scheme: str,
    activation: Activation,
    gain: float = 1.0,
    *,
    groups: int = 1,
    generator: torch.Generator | None = None,
) -> None:
    """Draw a weight tensor in place; the part of `initialize` that a layer restarting connections needs.

    Args:
        weight: O x I of a linear layer or O x I/groups x K x L of a convolution.
        scheme: one of SCHEMES.
        activation: what the layer's input has passed through.
        gain: factor on the standard deviation.
        groups: of a convolution.
        generator: source of randomness; None: torch's global one.

    Raises:
        ValueError: as `weight_std`; the weight is then unchanged.
    """
    if weight.numel() == 0:
        return  # a layer that has no neurons yet
    fan_in, fan_out = weight[0].numel(), weight[:, 0].numel() // groups
    std = weight_std(fan_in, scheme, activation, gain, fan_out=fan_out)
    if scheme == "orthogonal":
        # Entries of orthonormal rows of length m have standard deviation 1 / sqrt(m).
        longest = max(weight.shape[0], fan_in)
        nn.init.orthogonal_(weight, std * math.sqrt(longest), generator=generator)
    elif scheme.endswith("uniform"):
        bound = math.sqrt(3) * std
        nn.init.uniform_(weight, -bound, bound, generator=generator)
    else:
        nn.init.normal_(weight, 0.0, std, generator=generator)


def layer_fans(layer: nn.Linear | nn.Conv2d) -> tuple[int, int]:
    """Connections into one neuron and out of one input, within a group, ignoring borders and stride."""
    fan_in = layer.weight[0].numel()
    if isinstance(layer, nn.Conv2d):
        return fan_in, layer.weight[:, 0].numel() // layer.groups
    return fan_in, layer.weight.shape[0]


def _draw_bias(bias: Tensor, scheme: str, activation: Activation, generator: torch.Generator | None) -> None:
    variance = critical_point(activation).bias_variance if scheme == "critical" else 0.0
    if variance > 0:
        nn.init.normal_(bias, 0.0, math.sqrt(variance), generator=generator)
    else:
        nn.init.zeros_(bias)


def _check(scheme: str, gain: float) -> None:
    if scheme not in SCHEMES:
        raise ValueError(f"Unknown initialisation {scheme!r}. {suggest_name(scheme, SCHEMES)}")
    if not (gain > 0 and math.isfinite(gain)):
        raise ValueError(f"a gain must be positive and finite; got gain={gain}. Use 1.0 to change nothing.")


@lru_cache(maxsize=1)
def _nodes() -> tuple[Tensor, Tensor]:
    # Gauss-Legendre on either side of 0: exact for kinks there, and dense near 0 where sharp steps lie.
    points, weights = np.polynomial.legendre.leggauss(400)
    t = torch.from_numpy(6 * (points + 1))
    w = torch.from_numpy(6 * weights) * torch.exp(-t.square() / 2) / math.sqrt(2 * math.pi)
    return torch.cat([-t, t]), torch.cat([w, w])


def _mismatch(moments: GaussianMoments) -> float:
    return moments.kernel_slope / moments.slope - 1


def _critical_at(activation: Activation | ActivationFunction, K: float) -> CriticalPoint:
    m = gaussian_moments(activation, K)
    C_W = 1 / m.slope
    C_b = K - C_W * m.second
    # Quadrature leaves 1e-15 where the exact C_b is 0.
    return CriticalPoint(C_W, C_b if abs(C_b) > 1e-9 * K else 0.0, K, C_W * m.kernel_slope, 1.0)


def _critical_at_zero(activation: Activation | ActivationFunction) -> CriticalPoint:
    z = torch.zeros((), dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(activation_function(activation)(z), z)
    return CriticalPoint(1 / float(slope) ** 2, 0.0, 0.0, 1.0, 1.0)


def _gradient_preserving(activation: Activation | ActivationFunction) -> CriticalPoint:
    def excess(log_K: float) -> float:
        m = gaussian_moments(activation, math.exp(log_K))
        return m.K * m.slope / m.second - 1

    low, high = math.log(1e-3), math.log(1e3)
    if excess(low) * excess(high) > 0:
        raise ValueError(
            f"no C_W keeps gradients at their size without biases for {activation}: chi_perp stays on one "
            "side of 1 for K from 1e-3 to 1e3. Use a kaiming scheme, which keeps the signal."
        )
    m = gaussian_moments(activation, math.exp(float(brentq(excess, low, high, xtol=1e-12))))
    C_W = m.K / m.second
    return CriticalPoint(C_W, 0.0, m.K, C_W * m.kernel_slope, C_W * m.slope)
