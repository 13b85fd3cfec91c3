"""Laws of the initialisers: weights have the promised scale, and that scale carries a signal."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from growcore.config import Activation
from growcore.networks.initialization import (
    SCHEMES,
    activation_function,
    activation_gain,
    critical_point,
    gaussian_moments,
    initialize,
    input_gain,
    layer_fans,
    parallel_susceptibility,
    perpendicular_susceptibility,
    weight_std,
)

torch.set_num_threads(1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("K", [0.05, 1.0, 7.0])
def test_moments_equal_averages_over_many_gaussian_draws(activation: Activation, K: float) -> None:
    z = torch.randn(400_000, dtype=torch.float64, generator=generator()) * math.sqrt(K)
    z.requires_grad_()
    s = activation_function(activation)(z)
    (slope,) = torch.autograd.grad(s.sum(), z)
    s, z = s.detach(), z.detach()
    m = gaussian_moments(activation, K)
    draws = {
        "second": s**2,
        "fourth": s**4,
        "slope": slope**2,
        "kernel_slope": s**2 * (z**2 - K) / (2 * K**2),
    }
    for name, values in draws.items():
        error = values.std().item() / math.sqrt(len(values))
        assert getattr(m, name) == pytest.approx(values.mean().item(), abs=4 * error + 1e-9), name


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("K", [0.3, 3.0])
def test_kernel_slope_is_the_derivative_of_the_second_moment(activation: Activation, K: float) -> None:
    h = 1e-4 * K
    difference = gaussian_moments(activation, K + h).second - gaussian_moments(activation, K - h).second
    assert parallel_susceptibility(activation, 1.5, K) == pytest.approx(1.5 * difference / (2 * h), rel=1e-6)


@pytest.mark.parametrize("K", [0.0, -1.0, math.inf, math.nan])
def test_moments_need_a_positive_variance(K: float) -> None:
    with pytest.raises(ValueError, match=rf"must be positive and finite; got K={K}"):
        gaussian_moments(Activation.relu, K)


# (C_b, C_W, K): Roberts, Yaida, Hanin, sections 5.3.1 (tanh), 5.3.4 (SWISH, GELU); K* of GELU is exact.
CRITICAL = [
    (Activation.identity, 0.0, 1.0, 1.0),
    (Activation.relu, 0.0, 2.0, 1.0),
    (Activation.leaky_relu, 0.0, 2 / (1 + 0.01**2), 1.0),
    (Activation.tanh, 0.0, 1.0, 0.0),
    (Activation.gelu, 0.17292239, 1.98305826, (3 + math.sqrt(17)) / 2),
    (nn.functional.silu, 0.55514317, 1.98800468, 14.32017362),
]


@pytest.mark.parametrize(("activation", "C_b", "C_W", "K"), CRITICAL)
def test_critical_points_are_those_of_the_literature(activation, C_b: float, C_W: float, K: float) -> None:
    point = critical_point(activation)
    assert point.bias_variance == pytest.approx(C_b, abs=1e-7)
    assert point.weight_variance == pytest.approx(C_W, rel=1e-8)
    assert math.isclose(point.K, K, rel_tol=1e-8)


@pytest.mark.parametrize("activation", [a for a in Activation if a not in ("tanh", "sigmoid")])
def test_a_critical_point_is_a_fixed_point_with_both_susceptibilities_one(activation: Activation) -> None:
    p = critical_point(activation)
    assert p.bias_variance + p.weight_variance * gaussian_moments(activation, p.K).second == pytest.approx(
        p.K
    )
    assert parallel_susceptibility(activation, p.weight_variance, p.K) == pytest.approx(1)
    assert perpendicular_susceptibility(activation, p.weight_variance, p.K) == pytest.approx(1)


def test_tanh_is_critical_where_its_variance_has_decayed() -> None:
    for K in (1e-2, 1e-3):
        assert parallel_susceptibility(Activation.tanh, 1.0, K) == pytest.approx(1, abs=5 * K)
        assert perpendicular_susceptibility(Activation.tanh, 1.0, K) == pytest.approx(1, abs=5 * K)


def test_sigmoid_has_no_critical_point_and_keeps_gradients_instead() -> None:
    p = critical_point(Activation.sigmoid)
    assert p.bias_variance == 0
    assert perpendicular_susceptibility(Activation.sigmoid, p.weight_variance, p.K) == pytest.approx(1)
    assert p.weight_variance * gaussian_moments(Activation.sigmoid, p.K).second == pytest.approx(p.K)
    assert p.parallel == pytest.approx(parallel_susceptibility(Activation.sigmoid, p.weight_variance, p.K))
    assert p.parallel < 0.5


def test_a_constant_activation_has_no_critical_point() -> None:
    with pytest.raises(ValueError, match=r"derivative is not zero .* Use a function with a slope"):
        critical_point(lambda z: 0 * z + 1)


def test_gains_that_can_be_worked_by_hand() -> None:
    assert activation_gain(Activation.identity) == pytest.approx(1)
    assert activation_gain(Activation.relu) == pytest.approx(math.sqrt(2))
    assert activation_gain(Activation.leaky_relu) == pytest.approx(math.sqrt(2 / 1.0001))


@given(
    scheme=st.sampled_from(SCHEMES),
    activation=st.sampled_from(list(Activation)),
    fan_in=st.integers(120, 300),
    fan_out=st.integers(120, 300),
    gain=st.floats(0.2, 3),
)
@settings(max_examples=40, deadline=None)
def test_weights_of_a_linear_layer_have_the_promised_deviation(
    scheme: str, activation: Activation, fan_in: int, fan_out: int, gain: float
) -> None:
    layer = nn.Linear(fan_in, fan_out)
    initialize(layer, scheme, activation, gain, generator())
    std = weight_std(fan_in, scheme, activation, gain, fan_out=fan_out)
    # Five standard errors of a deviation estimated from at least 14,400 Gaussian weights.
    assert layer.weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * fan_in * fan_out))
    assert abs(layer.weight.mean().item()) < 5 * std / math.sqrt(fan_in * fan_out)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("groups", [1, 4])
def test_weights_of_a_convolution_have_the_promised_deviation(scheme: str, groups: int) -> None:
    layer = nn.Conv2d(32, 64, 3, groups=groups)
    assert layer_fans(layer) == (32 // groups * 9, 64 // groups * 9)
    initialize(layer, scheme, Activation.relu, 1.0, generator())
    std = weight_std(32 // groups * 9, scheme, Activation.relu, fan_out=64 // groups * 9)
    assert layer.weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * layer.weight.numel()))


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("scheme", ["kaiming_uniform", "kaiming_normal", "orthogonal"])
def test_kaiming_and_orthogonal_layers_keep_unit_variance(scheme: str, activation: Activation) -> None:
    layer = nn.Linear(300, 4_000)
    initialize(layer, scheme, activation, 1.0, generator())
    z = torch.randn(500, 300, generator=generator(1))
    with torch.no_grad():
        out = layer(activation_function(activation)(z))
    # The mean activation is shared by all samples, so the 4,000 neurons set the error.
    assert out.square().mean().item() == pytest.approx(1, rel=4 * math.sqrt(2 / 4_000))


@pytest.mark.parametrize("activation", [Activation.relu, Activation.gelu, Activation.identity])
def test_critical_networks_carry_a_signal_through_fifty_layers(activation: Activation) -> None:
    point, g = critical_point(activation), generator()
    z = math.sqrt(point.K) * torch.randn(8, 500, generator=g)
    with torch.no_grad():
        for _ in range(50):
            layer = nn.Linear(500, 500)
            initialize(layer, "critical", activation, 1.0, g)
            z = layer(activation_function(activation)(z))
    assert point.K / 4 < z.square().mean().item() < 4 * point.K


@pytest.mark.parametrize(("rows", "columns"), [(20, 50), (50, 20), (30, 30)])
def test_orthogonal_weights_have_orthogonal_rows_or_columns(rows: int, columns: int) -> None:
    layer = nn.Linear(columns, rows)
    initialize(layer, "orthogonal", Activation.identity, 0.5, generator())
    W = layer.weight.detach()
    gram = W @ W.T if rows <= columns else W.T @ W
    scale = 0.5 * math.sqrt(max(1, rows / columns))
    torch.testing.assert_close(gram, scale**2 * torch.eye(min(rows, columns)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s != "orthogonal"])
@pytest.mark.parametrize("activation", Activation)
def test_biases_are_zero_unless_the_critical_point_has_a_bias(scheme: str, activation: Activation) -> None:
    layer = nn.Linear(4, 4_000)
    initialize(layer, scheme, activation, 2.0, generator())
    C_b = critical_point(activation).bias_variance if scheme == "critical" else 0.0
    assert layer.bias.var().item() == pytest.approx(C_b, rel=0.12)


@given(scheme=st.sampled_from(SCHEMES), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_equal_seeds_draw_equal_weights_and_leave_the_global_generator_alone(scheme: str, seed: int) -> None:
    first, second = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3)
    state = torch.get_rng_state()
    initialize(first, scheme, Activation.gelu, 1.0, generator(seed))
    initialize(second, scheme, Activation.gelu, 1.0, generator(seed))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert torch.equal(state, torch.get_rng_state())


def test_uniform_is_the_default_of_torch() -> None:
    torch.manual_seed(5)
    bound = nn.Linear(50, 4_000).weight.detach().abs().max().item()
    assert math.sqrt(3) * weight_std(50, "uniform", Activation.tanh) == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize(
    ("scheme", "gain", "message"),
    [
        ("kaiming_norml", 1.0, r"Unknown initialisation 'kaiming_norml'. Did you mean 'kaiming_normal'\?"),
        ("critical", 0.0, r"gain must be positive and finite; got gain=0.0"),
        ("orthogonal", math.inf, r"gain must be positive and finite; got gain=inf"),
    ],
)
def test_a_refused_initialisation_changes_nothing(scheme: str, gain: float, message: str) -> None:
    layer = nn.Linear(3, 3)
    before = [p.detach().clone() for p in layer.parameters()]
    with pytest.raises(ValueError, match=message):
        initialize(layer, scheme, Activation.relu, gain)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


def test_xavier_needs_both_fans_and_fans_are_counts() -> None:
    with pytest.raises(ValueError, match=r"xavier_normal uses both fans; got fan_out=None"):
        weight_std(3, "xavier_normal", Activation.relu)
    with pytest.raises(ValueError, match=r"at least 1; got fan_in=0, fan_out=None"):
        weight_std(0, "kaiming_normal", Activation.relu)


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_a_fixed_point_of_its_own_changes_the_first_layer(scheme: str, activation: Activation) -> None:
    has_its_own = scheme == "critical" and activation in (Activation.gelu, Activation.sigmoid)
    expected = math.sqrt(critical_point(activation).K) if has_its_own else 1.0
    assert input_gain(scheme, activation) == pytest.approx(expected, rel=1e-12)
