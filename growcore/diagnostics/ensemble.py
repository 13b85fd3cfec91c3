"""Preactivations over many randomly initialised networks: how to sample them, and what to measure.

Letters: N networks, n neurons of a layer, l the layer (the first is 1), z a preactivation, K its
variance over networks, C_W / fan_in the variance of a weight, C_b that of a bias.

Given layer l, the preactivations of layer l + 1 are exactly independent Gaussians of variance
C_b + C_W mean(sigma(z)^2), so an ensemble of multilayer perceptrons needs no weight matrices.

The connected correlators are averaged over all index tuples through power sums. Sampling index
quadruples and averaging |connected| / K^2 instead measures mostly its own noise, `noise_floor`.

[Roberts2022] The Principles of Deep Learning Theory, arXiv:2106.10165, chapter 4.
[Hotelling1931] The Generalization of Student's Ratio, Annals of Mathematical Statistics 2(3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from growcore.config import Activation
from growcore.networks.initialization import ActivationFunction, activation_function


@dataclass(frozen=True, kw_only=True, slots=True)
class MLPEnsemble:
    """Random multilayer perceptrons of equal widths and one input."""

    width: int  # n, neurons of every layer
    depth: int  # layers
    activation: Activation | ActivationFunction
    weight_variance: float  # C_W: weights have variance C_W / fan_in
    bias_variance: float = 0.0  # C_b
    input_square: float = 1.0  # |x|^2 / n0 of the input

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 1:
            raise ValueError(
                "an ensemble needs at least one neuron and one layer; "
                f"got width={self.width}, depth={self.depth}. Use for example width=256, depth=32."
            )
        if not (self.weight_variance > 0 and self.bias_variance >= 0 and self.input_square > 0):
            raise ValueError(
                "an ensemble needs weight_variance > 0, bias_variance >= 0 and input_square > 0; got "
                f"{self.weight_variance}, {self.bias_variance}, {self.input_square}. For ReLU use 2, 0, 1."
            )


def sample_preactivations(
    ensemble: MLPEnsemble, num_networks: int, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """Draw every network's preactivations layer by layer from their exact conditional law.

    Yields:
        z_Nn of layers 1, 2, ..., depth in float64; one row per network.
    """
    sigma = activation_function(ensemble.activation)
    square_N1 = torch.full((num_networks, 1), ensemble.input_square, dtype=torch.float64)
    for _ in range(ensemble.depth):
        noise_Nn = torch.randn(num_networks, ensemble.width, dtype=torch.float64, generator=generator)
        variance_N1 = ensemble.bias_variance + ensemble.weight_variance * square_N1
        z_Nn = variance_N1.sqrt() * noise_Nn
        yield z_Nn
        square_N1 = sigma(z_Nn).square().mean(1, keepdim=True)


def sample_preactivations_from_weights(
    ensemble: MLPEnsemble,
    num_networks: int,
    generator: torch.Generator | None = None,
    *,
    networks_at_once: int = 64,
) -> Iterator[Tensor]:
    """The same by drawing every weight matrix; slower by the width, kept as the check of the other.

    Args:
        ensemble: the networks; the input has `width` equal entries.
        num_networks: N.
        generator: source of randomness; None: torch's global one.
        networks_at_once: networks whose weights of one layer are in memory together.

    Yields:
        z_Nn of layers 1, 2, ..., depth in float64; one row per network.
    """
    sigma = activation_function(ensemble.activation)
    shape = (num_networks, ensemble.width)
    s_Nn = torch.full(shape, math.sqrt(ensemble.input_square), dtype=torch.float64)
    for _ in range(ensemble.depth):
        z_Nn = torch.cat(
            [_random_layer(ensemble, part, generator) for part in torch.split(s_Nn, networks_at_once)]
        )
        yield z_Nn
        s_Nn = sigma(z_Nn)


def _random_layer(ensemble: MLPEnsemble, s_Nn: Tensor, generator: torch.Generator | None) -> Tensor:
    num_networks, n = s_Nn.shape
    W_Nnn = torch.randn(num_networks, n, n, dtype=s_Nn.dtype, generator=generator)
    b_Nn = torch.randn(num_networks, n, dtype=s_Nn.dtype, generator=generator)
    z_Nn = torch.bmm(W_Nnn, s_Nn.unsqueeze(2)).squeeze(2) * math.sqrt(ensemble.weight_variance / n)
    return z_Nn + math.sqrt(ensemble.bias_variance) * b_Nn


def sample_model_preactivations(
    draw: Callable[[], nn.Module], x: Tensor, num_networks: int
) -> dict[str, Tensor]:
    """Preactivations of every linear and convolution layer over freshly drawn models.

    Args:
        draw: gives a newly initialised model at each call; in eval mode if it normalises by batch.
        x: one input, with a batch dimension of 1.
        num_networks: how many models are drawn.

    Returns:
        z_Nn in float64 by layer name, in order of the forward pass; of a convolution, n counts the
        channels and z is taken at the centre of the map, since positions share their weights.

    Raises:
        ValueError: `x` is not one input, or the model has no linear or convolution layer.
    """
    if x.shape[0] != 1:
        raise ValueError(f"an ensemble is measured on one input; got a batch of {x.shape[0]}. Pass x[:1].")
    rows: dict[str, list[Tensor]] = {}
    for _ in range(num_networks):
        for name, z_n in _preactivations(draw(), x).items():
            rows.setdefault(name, []).append(z_n)
    if not rows:
        raise ValueError("the model called no linear or convolution layer; got none to measure. Add one.")
    return {name: torch.stack(z) for name, z in rows.items()}


def _preactivations(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            z = output[0].detach().double()
            found[name] = z[:, z.shape[1] // 2, z.shape[2] // 2] if z.ndim == 3 else z

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(keep(name))
    with torch.no_grad():
        model(x)
    return found


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value; networks are the independent samples behind its standard error."""

    value: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Hotelling:
    """Test that every neuron has mean 0 over networks; a small p-value speaks against it."""

    t2: Estimate  # its standard error is the deviation of T^2 when the mean is 0
    p_value: float


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """One layer over an ensemble of networks, neurons taken as exchangeable."""

    layer: str
    mean: Estimate  # of z
    K: Estimate  # mean of z^2
    excess_kurtosis: Estimate  # E[z^4] / K^2 - 3
    pair_correlator: Estimate  # E[z_i^2 z_j^2] / K^2 - 1, i != j
    four_point_correlator: Estimate  # (E[z_i z_j z_k z_l] - 3 E[z_i z_j]^2) / K^2, all distinct
    hotelling: Hotelling | None  # None where there are not more networks than neurons


def rg_flow(
    ensemble: MLPEnsemble, num_networks: int, generator: torch.Generator | None = None
) -> list[LayerStatistics]:
    """Statistics of layers 1, ..., depth of an ensemble; 2,000 networks of 256 x 32 take seconds."""
    layers = sample_preactivations(ensemble, num_networks, generator)
    return [layer_statistics(z_Nn, str(index)) for index, z_Nn in enumerate(layers, start=1)]


def layer_statistics(z_Nn: Tensor, layer: str = "") -> LayerStatistics:
    """Mean, K, kurtosis, connected correlators and the test of the mean, with standard errors.

    Args:
        z_Nn: preactivations, one row per independently drawn network.
        layer: name to report.

    Raises:
        ValueError: fewer than 2 networks or 4 neurons, or values that are all zero or not finite.
    """
    z = z_Nn.double()
    _check_sample(z)
    n = z.shape[1]
    z2 = z.square()
    p1, p2, p3, p4 = z.sum(1), z2.sum(1), (z2 * z).sum(1), z2.square().sum(1)
    q = p2 / n
    K = q.mean()
    pairs = (p2.square() - p4) / (n * (n - 1))
    e2 = (p1.square() - p2) / (n * (n - 1))
    e4 = (p1**4 - 6 * p1.square() * p2 + 3 * p2.square() + 8 * p1 * p3 - 6 * p4) / math.perm(n, 4)
    kurtosis, pair = _over_square(p4 / n, q), _over_square(pairs, q)
    # Linearised like _over_square; the disconnected part 3 (E[z_i z_j] / K)^2 moves with e2 and K.
    c = e2.mean() / K
    disconnected = 6 * c * (e2 / K - c * q / K)
    four = _influence_over_square(e4, q) - disconnected
    return LayerStatistics(
        layer=layer,
        mean=_mean(p1 / n),
        K=_mean(q),
        excess_kurtosis=Estimate(kurtosis.value - 3, kurtosis.standard_error),
        pair_correlator=Estimate(pair.value - 1, pair.standard_error),
        four_point_correlator=Estimate(float(e4.mean() / K**2 - 3 * c**2), _mean(four).standard_error),
        hotelling=hotelling(z) if z.shape[0] > n else None,
    )


def hotelling(z_Nn: Tensor) -> Hotelling:
    """Hotelling's one-sample T^2 for a mean of 0 of all neurons at once.

    Raises:
        ValueError: there are not more networks than neurons, so their covariance is singular.
    """
    # Imported here because they take seconds.
    from scipy import stats
    from statsmodels.stats.multivariate import test_mvmean  # type: ignore[import-untyped]

    num_networks, n = z_Nn.shape
    if num_networks <= n:
        raise ValueError(
            "Hotelling's T^2 inverts the covariance of the neurons and needs more networks than neurons; "
            f"got {num_networks} networks, {n} neurons. Draw at least {n + 1} networks."
        )
    result = test_mvmean(z_Nn.double().numpy())
    degrees = (n, num_networks - n)
    scale = (num_networks - 1) * n / (num_networks - n)
    return Hotelling(Estimate(float(result.t2), scale * float(stats.f.std(*degrees))), float(result.pvalue))


def sampled_four_point(z_Nn: Tensor, num_quadruples: int, generator: torch.Generator | None = None) -> float:
    """Mean of |connected| / K^2 over random index quadruples (repeats allowed), as it is often quoted.

    An absolute value averages no noise away: even independent Gaussians give `noise_floor(N)`. A value
    near that floor says nothing about interactions; read `four_point_correlator` instead.
    """
    z = z_Nn.double()
    index = torch.randint(z.shape[1], (4, num_quadruples), generator=generator)
    a, b, c, d = (z[:, i] for i in index)
    connected = (a * b * c * d).mean(0)
    for (s, t), (u, v) in (((a, b), (c, d)), ((a, c), (b, d)), ((a, d), (b, c))):
        connected = connected - (s * t).mean(0) * (u * v).mean(0)
    return float(connected.abs().mean() / z.var(unbiased=False) ** 2)


def noise_floor(num_networks: int) -> float:
    """What `sampled_four_point` gives for independent Gaussians: sqrt(2 / (pi N))."""
    return math.sqrt(2 / (math.pi * num_networks))


def _check_sample(z_Nn: Tensor) -> None:
    if z_Nn.ndim != 2 or z_Nn.shape[0] < 2 or z_Nn.shape[1] < 4:
        raise ValueError(
            "statistics of an ensemble need at least 2 networks (rows) of 4 neurons (columns); "
            f"got shape {tuple(z_Nn.shape)}. Draw more networks or wider layers."
        )
    if not torch.isfinite(z_Nn).all() or not z_Nn.any():
        raise ValueError(
            "statistics of an ensemble need finite values that are not all zero; got "
            f"{int((~torch.isfinite(z_Nn)).sum())} values that are not finite, largest magnitude "
            f"{float(z_Nn.abs().max())}. Use fewer layers or a weight variance nearer criticality."
        )


def _mean(values_N: Tensor) -> Estimate:
    return Estimate(float(values_N.mean()), float(values_N.std()) / math.sqrt(len(values_N)))


def _over_square(values_N: Tensor, q_N: Tensor) -> Estimate:
    """Mean of values / K^2, K = mean(q), with the standard error of the ratio (linearised)."""
    influence = _influence_over_square(values_N, q_N)
    return Estimate(float(values_N.mean() / q_N.mean() ** 2), _mean(influence).standard_error)


def _influence_over_square(values_N: Tensor, q_N: Tensor) -> Tensor:
    K = q_N.mean()
    return values_N / K**2 - 2 * values_N.mean() / K**3 * q_N
