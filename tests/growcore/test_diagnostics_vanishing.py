"""Laws of long matrix products: where they are lost is where their gain says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from growcore.config import Activation
from growcore.diagnostics import (
    Lost,
    multiplications_until_lost,
    normal_matrix,
    predicted_multiplications,
    product_moments,
    scheme_matrix,
    uniform_matrix,
)
from growcore.networks.initialization import SCHEMES, weight_std


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# (bound, ReLU, index worked by hand, index that a repeated matrix was once seen to reach)
KNOWN = [
    (0.01, False, 47.6, 48),
    (0.01, True, 40.5, 41),
    (512**-0.5, False, 181.6, 182),
    (512**-0.5, True, 111.0, 108),
]


@pytest.mark.parametrize(("bound", "relu", "by_hand", "seen"), KNOWN)
def test_predictions_are_those_worked_by_hand(bound: float, relu: bool, by_hand: float, seen: int) -> None:
    predicted = predicted_multiplications(bound / math.sqrt(3), 512, relu=relu)
    assert predicted == pytest.approx(by_hand, abs=0.05)
    assert predicted == pytest.approx(seen, rel=0.04)


@pytest.mark.slow  # numbers below 1e-38 are slow on a CPU
@pytest.mark.parametrize(
    ("bound", "relu", "by_hand", "fresh"),
    [*((bound, relu, by_hand, True) for bound, relu, by_hand, _ in KNOWN), (0.01, True, 40.5, False)],
)
def test_uniform_matrices_of_512_are_lost_where_predicted(bound, relu, by_hand, fresh: bool) -> None:
    lost = multiplications_until_lost(uniform_matrix(512, bound, generator()), relu=relu, fresh=fresh)
    assert lost is not None
    assert lost.cause == "underflow"
    assert lost.index == pytest.approx(by_hand, rel=0.05, abs=1)


@given(
    size=st.integers(24, 64),
    gain=st.sampled_from([0.2, 0.5, 3.0, 20.0]),
    relu=st.booleans(),
    seed=st.integers(0, 9),
)
def test_fresh_products_are_lost_where_predicted(size: int, gain: float, relu: bool, seed: int) -> None:
    std = gain / math.sqrt(size / 2 if relu else size)
    lost = multiplications_until_lost(normal_matrix(size, std, generator(seed)), relu=relu)
    assert lost is not None
    assert lost.cause == ("underflow" if gain < 1 else "overflow")
    # log |product| drifts by 1 / size a factor (ReLU: 5 / 2 size) from the log of its mean square.
    drift = (2.5 if relu else 1) / size / abs(math.log(gain))
    assert lost.index == pytest.approx(
        predicted_multiplications(std, size, relu=relu), rel=drift + 0.05, abs=2.5
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("activation", "relu"), [(Activation.identity, False), (Activation.relu, True)])
def test_schemes_made_for_an_activation_keep_its_products_alive(scheme, activation, relu: bool) -> None:
    draw = scheme_matrix(128, scheme, activation, generator=generator())
    lost = multiplications_until_lost(draw, relu=relu, max_multiplications=250)
    if scheme != "uniform":
        assert lost is None
        return
    # torch's default has gain 1 / sqrt(3), with ReLU 1 / sqrt(6).
    assert lost is not None
    predicted = predicted_multiplications(weight_std(128, scheme, activation), 128, relu=relu)
    assert lost.index == pytest.approx(predicted, rel=0.05)


@pytest.mark.parametrize(
    ("activation", "relu", "cause"), [("identity", True, "underflow"), ("relu", False, "overflow")]
)
def test_a_scheme_made_for_another_activation_loses_the_signal(
    activation: str, relu: bool, cause: str
) -> None:
    draw = scheme_matrix(96, "kaiming_uniform", Activation(activation), generator=generator())
    lost = multiplications_until_lost(draw, relu=relu)
    assert lost is not None
    assert lost.cause == cause
    std = weight_std(96, "kaiming_uniform", Activation(activation))
    assert lost.index == pytest.approx(predicted_multiplications(std, 96, relu=relu), rel=0.1)


def test_a_repeated_orthogonal_matrix_never_loses_the_signal() -> None:
    draw = scheme_matrix(32, "orthogonal", Activation.identity, generator=generator())
    assert multiplications_until_lost(draw, fresh=False, max_multiplications=2_000) is None
    assert predicted_multiplications(32**-0.5, 32) == math.inf


def test_one_infinite_entry_is_an_overflow_and_huge_finite_entries_are_not() -> None:
    spike = torch.eye(64)
    spike[0, 0] = 1e30
    assert multiplications_until_lost(lambda: spike) == Lost(0, "overflow")
    huge = torch.full((4, 4), 3e38)
    halving = iter([huge, *[torch.eye(4)] * 5])
    assert not math.isfinite((huge.square().mean()).item())  # a second moment would cry wolf
    assert multiplications_until_lost(lambda: next(halving), max_multiplications=5) is None


def test_the_last_entry_above_zero_is_still_a_signal() -> None:
    lone = torch.zeros(8, 8)
    lone[0, 0] = 0.5
    # 2^-149 is the smallest float32 above 0: 0.5^(index + 2) is one half of it, and rounds to 0, at 148.
    assert multiplications_until_lost(lambda: lone) == Lost(148, "underflow")


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("gain", [1.0, 0.3])
@pytest.mark.parametrize("relu", [False, True])
def test_moments_of_one_product_are_those_expected(size: int, gain: float, relu: bool) -> None:
    std = gain / math.sqrt(size)
    g = generator()
    moments = product_moments(normal_matrix(size, std, g), 150, relu=relu, generator=g)
    mean = gain / math.sqrt(2 * math.pi) if relu else 0.0
    assert abs(moments.mean.value - mean) <= 3 * moments.mean.standard_error + 2 * mean / size
    second = gain**2 / 2 if relu else gain**2
    assert abs(moments.second.value - second) <= 3 * moments.second.standard_error


def test_what_cannot_be_predicted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"positive deviation .* got std=0, size=4"):
        predicted_multiplications(0, 4)
    with pytest.raises(ValueError, match=r"at least 2 repeats; got 1"):
        product_moments(normal_matrix(4, 1.0), 1)
