import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from growcore.sparse.geometry import ConvGeometry, LinearGeometry
from growcore.sparse.strength import (
    STRENGTHS,
    coactivation,
    correlation,
    find_strength,
    gradient,
    magnitude,
    pooled_correlation,
    random,
)

torch.set_num_threads(1)
# Torch's own hint that an uneven padding costs it a copy.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def padded(conv, x):
    """The input with the layer's padding written out, by torch's own rules."""
    margins = conv._reversed_padding_repeated_twice
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return nn.functional.pad(x, margins, mode=mode)


def taps(conv, x, o, c, i, j, p, q):
    """Inputs over the batch that connection (o, c, i, j) reads at output position (p, q), one at a time."""
    group = o // (conv.out_channels // conv.groups)
    channel = group * (conv.in_channels // conv.groups) + c
    row = p * conv.stride[0] + i * conv.dilation[0]
    column = q * conv.stride[1] + j * conv.dilation[1]
    return padded(conv, x)[:, channel, row, column]


def coactivation_by_loops(conv, x, y, threshold):
    H = torch.zeros_like(conv.weight)
    num, _, P, Q = y.shape
    for o, c, i, j in torch.cartesian_prod(*[torch.arange(n) for n in conv.weight.shape]).tolist():
        for p in range(P):
            for q in range(Q):
                inputs = taps(conv, x, o, c, i, j, p, q)
                H[o, c, i, j] += int(
                    ((inputs.sigmoid() > threshold) & (y[:, o, p, q].sigmoid() > threshold)).sum()
                )
    return H / (num * P * Q)


GEOMETRIES = {
    "plain": {},
    "stride that leaves a rest": {"stride": (2, 3), "kernel_size": (2, 2)},
    "padding wider than one side": {"padding": (2, 1), "kernel_size": (3, 2)},
    "same, even kernel": {"padding": "same", "kernel_size": (2, 4), "dilation": (1, 2)},
    "valid": {"padding": "valid", "kernel_size": (3, 1)},
    "dilation": {"dilation": (2, 1), "kernel_size": (2, 3)},
    "groups": {"groups": 2, "kernel_size": (2, 2), "padding": 1},
    "depthwise": {"groups": 4, "kernel_size": (3, 3), "padding": 1, "stride": 2},
    "circular": {"padding": (1, 2), "padding_mode": "circular", "kernel_size": (3, 3)},
    "reflect": {"padding": (2, 1), "padding_mode": "reflect", "kernel_size": (3, 3), "stride": 2},
    "replicate, same": {"padding": "same", "padding_mode": "replicate", "kernel_size": (2, 3)},
}


def make(name, seed=0):
    generator = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d(4, 4, **{"kernel_size": (2, 2), **GEOMETRIES[name]})
    x = torch.randn(3, 4, 6, 5, generator=generator)
    return conv, x, conv(x).detach()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_coactivation_equals_a_loop_over_connections_samples_and_positions(name):
    conv, x, y = make(name)
    for threshold in (0.5, 0.6):
        strengths = coactivation(ConvGeometry.of(conv), x, y, threshold)
        torch.testing.assert_close(strengths, coactivation_by_loops(conv, x, y, threshold), rtol=0, atol=1e-6)
        assert strengths.max() > 0


def pearson(a, b):
    """|correlation| of two vectors in float64, 0 where one is constant."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = a.norm() * b.norm()
    return (a @ b).abs() / scale if scale > 1e-9 else torch.tensor(0.0)


def each_connection(conv, value):
    H = torch.zeros(conv.weight.shape, dtype=torch.float64)
    for index in torch.cartesian_prod(*[torch.arange(n) for n in conv.weight.shape]).tolist():
        H[tuple(index)] = value(*index)
    return H.float()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_correlation_equals_a_loop_over_connections_and_positions(name):
    conv, x, y = make(name)
    positions = [(p, q) for p in range(y.shape[2]) for q in range(y.shape[3])]

    def mean_over_positions(o, c, i, j):
        values = [pearson(taps(conv, x, o, c, i, j, p, q), y[:, o, p, q]) for p, q in positions]
        return sum(values) / len(values)

    expected = each_connection(conv, mean_over_positions)
    strengths = correlation(ConvGeometry.of(conv), x, y)
    torch.testing.assert_close(strengths, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_pooled_correlation_equals_a_loop_over_connections(name):
    conv, x, y = make(name)
    positions = [(p, q) for p in range(y.shape[2]) for q in range(y.shape[3])]

    def over_all(o, c, i, j):
        inputs = torch.cat([taps(conv, x, o, c, i, j, p, q) for p, q in positions])
        return pearson(inputs, torch.cat([y[:, o, p, q] for p, q in positions]))

    strengths = pooled_correlation(ConvGeometry.of(conv), x, y)
    torch.testing.assert_close(strengths, each_connection(conv, over_all), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_gradient_is_that_of_the_dense_weight(name):
    conv, x, y = make(name)
    conv(x).square().sum().backward()
    strengths = gradient(ConvGeometry.of(conv), x, 2 * y)
    torch.testing.assert_close(strengths, conv.weight.grad.abs(), rtol=1e-4, atol=1e-4)


def test_linear_correlations_equal_numpy_and_positions_of_a_sequence_are_averaged_or_pooled():
    x, y = torch.randn(6, 4, 3), torch.randn(6, 4, 2)
    expected, pooled = torch.zeros(2, 3), torch.zeros(2, 3)
    for o in range(2):
        for c in range(3):
            expected[o, c] = sum(pearson(x[:, t, c], y[:, t, o]) for t in range(4)) / 4
            pooled[o, c] = pearson(x[..., c].flatten(), y[..., o].flatten())
    torch.testing.assert_close(correlation(LinearGeometry(), x, y), expected)
    torch.testing.assert_close(pooled_correlation(LinearGeometry(), x, y), pooled)
    flat = correlation(LinearGeometry(), x[:, 0], y[:, 0])
    torch.testing.assert_close(
        flat, each_connection(nn.Linear(3, 2), lambda o, c: pearson(x[:, 0, c], y[:, 0, o]))
    )


@pytest.mark.parametrize("strength", [correlation, pooled_correlation])
def test_correlations_are_unmoved_by_shift_and_scale_and_zero_for_constants(strength):
    x, y = torch.randn(8, 3, 4, 4), torch.randn(8, 2, 4, 4)
    geometry = ConvGeometry((1, 1))
    moved = strength(geometry, 100 - 3 * x, 0.5 * y + 7)
    torch.testing.assert_close(moved, strength(geometry, x, y), rtol=1e-3, atol=1e-4)
    x[:, 1], y[:, 0] = 0.1, 1 / 3
    strengths = strength(geometry, x, y)[..., 0, 0]
    assert strengths[:, 1].equal(torch.zeros(2))
    assert strengths[0].equal(torch.zeros(3))
    assert strengths[1, 0] > 0


def test_two_samples_always_correlate_fully_so_correlation_wants_three():
    x, y = torch.randn(2, 4, 5, 5), torch.randn(2, 3, 3, 3)
    geometry = ConvGeometry((3, 3))
    by_hand = each_connection(
        nn.Conv2d(4, 3, 3),
        lambda o, c, i, j: pearson(taps(nn.Conv2d(4, 3, 3), x, o, c, i, j, 1, 2), y[:, o, 1, 2]),
    )
    torch.testing.assert_close(by_hand, torch.ones(3, 4, 3, 3))
    with pytest.raises(ValueError, match=r"batch of at least 3.*got 2"):
        correlation(geometry, x, y)
    with pytest.raises(ValueError, match=r"at least 3 pairs.*got 2"):
        pooled_correlation(LinearGeometry(), torch.randn(2, 4), torch.randn(2, 3))


def test_correlation_in_blocks_equals_correlation_at_once(monkeypatch):
    conv, x, y = make("groups")
    whole = correlation(ConvGeometry.of(conv), x, y)
    for entries in (1, 100, 150):
        monkeypatch.setattr("growcore.sparse.strength._CHUNK_ENTRIES", entries)
        torch.testing.assert_close(correlation(ConvGeometry.of(conv), x, y), whole)


def test_a_batch_whose_gradient_overflowed_counts_as_nothing():
    x, g = torch.randn(4, 3), torch.randn(4, 2)
    g[1, 1] = math.inf
    assert gradient(LinearGeometry(), x, g).equal(torch.zeros(2, 3))


def test_magnitudes_are_absolute_weights_and_random_strengths_repeat_with_their_generator():
    weight = torch.tensor([[-2.0, 1.0]], dtype=torch.bfloat16)
    assert magnitude(weight).equal(torch.tensor([[2.0, 1.0]]))
    draws = [random(torch.empty(50, 50), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert draws[0].equal(draws[1])
    assert not draws[0].equal(draws[2])
    assert 0 <= draws[0].min() < draws[0].max() < 1


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(3, 8), st.integers(3, 8)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    seed=st.integers(0, 99),
)
def test_the_weight_gradient_is_the_sum_of_tap_times_output(size, kernel, stride, padding, seed):
    generator = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d(2, 3, kernel, stride=stride, padding=padding, bias=False).double()
    x = torch.randn(2, 2, *size, generator=generator, dtype=torch.float64)
    y = conv(x)
    g = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(y, conv.weight, g)
    torch.testing.assert_close(ConvGeometry.of(conv).weight_gradient(x, g), expected)


def test_a_linear_layer_coactivates_over_every_leading_dimension():
    x, y = torch.randn(4, 5, 3), torch.randn(4, 5, 2)
    expected = torch.zeros(2, 3)
    for n in range(4):
        for m in range(5):
            for o in range(2):
                for c in range(3):
                    expected[o, c] += float(x[n, m, c] > 0 and y[n, m, o] > 0) / 20
    torch.testing.assert_close(coactivation(LinearGeometry(), x, y), expected)


def test_zero_padding_is_never_active_and_a_circular_one_repeats_what_it_copies():
    x = torch.ones(1, 1, 3, 3)
    zeros = nn.Conv2d(1, 1, 3, padding=1)
    circular = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
    y = torch.ones(1, 1, 3, 3)
    # The corner tap misses the map at 5 of 9 positions, an edge tap at 3.
    expected = torch.tensor([[4.0, 6, 4], [6, 9, 6], [4, 6, 4]]) / 9
    torch.testing.assert_close(coactivation(ConvGeometry.of(zeros), x, y)[0, 0], expected)
    assert (coactivation(ConvGeometry.of(circular), x, y) == 1).all()


def test_an_unbatched_image_counts_as_a_batch_of_one():
    conv, x, y = make("plain")
    geometry = ConvGeometry.of(conv)
    assert coactivation(geometry, x[0], y[0]).equal(coactivation(geometry, x[:1], y[:1]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_frequencies_are_exact_float32_whatever_the_type_of_the_layer(dtype):
    x, y = torch.randn(64, 3, 8, 8).to(dtype), torch.randn(64, 5, 8, 8).to(dtype)
    strengths = coactivation(ConvGeometry((1, 1)), x, y)
    assert strengths.dtype == torch.float32
    counts = torch.einsum("nchw,nohw->oc", (x > 0).double(), (y > 0).double())
    assert (strengths[..., 0, 0] * 4096).equal(counts.float())


def test_autocast_does_not_round_the_counts():
    x, y = torch.randn(600, 4), torch.randn(600, 4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = coactivation(LinearGeometry(), x, y)
    assert rounded.equal(coactivation(LinearGeometry(), x, y))


def test_a_threshold_is_a_level_of_the_sigmoid():
    level = math.log(0.8 / 0.2)
    x = torch.tensor([[level - 1e-3], [level + 1e-3]])
    assert coactivation(LinearGeometry(), x, torch.full((2, 1), 9.0), 0.8).item() == 0.5


@pytest.mark.parametrize("threshold", [0.49, 1.0, -1.0, math.nan])
def test_a_threshold_outside_its_range_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"\[0.5, 1\).*got activity_threshold={threshold}"):
        coactivation(LinearGeometry(), torch.zeros(1, 1), torch.zeros(1, 1), threshold)


def test_an_unknown_strength_is_named_with_the_closest_known_one():
    with pytest.raises(ValueError, match=r"Unknown strength 'coactivaton'. Did you mean 'coactivation'"):
        find_strength("coactivaton")
    assert all(find_strength(name) is strength for name, strength in STRENGTHS.items())
