"""What chapter 4 and 5 of the effective theory predict for a random multilayer perceptron.

Letters as in `growcore.diagnostics.ensemble`; V is n times the connected four-point vertex, so that
the pair correlator E[z_i^2 z_j^2] / K^2 - 1 is V / (n K^2).

[Roberts2022] The Principles of Deep Learning Theory, arXiv:2106.10165, sections 3.3, 4.1, 4.3, 5.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from growcore.config import Activation
from growcore.diagnostics.ensemble import MLPEnsemble
from growcore.networks.initialization import gaussian_moments

SCALE_INVARIANT = (Activation.identity, Activation.relu, Activation.leaky_relu)


@dataclass(frozen=True, slots=True)
class LayerTheory:
    """Predicted statistics of one layer."""

    layer: str
    K: float
    pair_correlator: float
    excess_kurtosis: float  # three times the pair correlator at any width: z is Gaussian given its variance


def predict(ensemble: MLPEnsemble) -> list[LayerTheory]:
    """Theory for layers 1, ..., depth of an ensemble.

    Exact at every width for scale invariant activations without biases: K grows by C_W A2 a layer, and
    1 + pair correlator by 1 + c / n. For others the recursion of K and V at leading order in 1 / n,
    wrong by about l / n.
    """
    if ensemble.activation in SCALE_INVARIANT and ensemble.bias_variance == 0:
        return _scale_invariant(ensemble)
    return _leading_order(ensemble)


def vertex_constant(activation: Activation) -> float:
    """The c = 3 A4 / A2^2 - 1 of a scale invariant activation: 2 for linear, 5 for ReLU.

    Raises:
        ValueError: the activation has a scale of its own.
    """
    if activation not in SCALE_INVARIANT:
        raise ValueError(
            f"the vertex constant exists for {', '.join(SCALE_INVARIANT)}, where <sigma^4> / <sigma^2>^2 "
            f"does not depend on K; got {activation}. Use predict(), which follows K through the layers."
        )
    moments = gaussian_moments(activation, 1.0)
    return moments.fourth / moments.second**2 - 1


def _scale_invariant(ensemble: MLPEnsemble) -> list[LayerTheory]:
    assert isinstance(ensemble.activation, Activation)
    growth = ensemble.weight_variance * gaussian_moments(ensemble.activation, 1.0).second
    spread = 1 + vertex_constant(ensemble.activation) / ensemble.width
    first = ensemble.weight_variance * ensemble.input_square
    return [
        _layer(before + 1, first * growth**before, spread**before - 1) for before in range(ensemble.depth)
    ]


def _leading_order(ensemble: MLPEnsemble) -> list[LayerTheory]:
    C_W, C_b = ensemble.weight_variance, ensemble.bias_variance
    K, V = C_b + C_W * ensemble.input_square, 0.0
    layers = [_layer(1, K, 0.0)]
    for index in range(2, ensemble.depth + 1):
        m = gaussian_moments(ensemble.activation, K)
        chi = C_W * m.kernel_slope
        V = chi**2 * V + C_W**2 * (m.fourth - m.second**2)
        K = C_b + C_W * m.second
        layers.append(_layer(index, K, V / (ensemble.width * K**2)))
    return layers


def _layer(index: int, K: float, pair: float) -> LayerTheory:
    return LayerTheory(str(index), K, pair, 3 * pair)
