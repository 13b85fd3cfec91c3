import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from growcore.growth import solve


def random_statistics(num_in: int, num_out: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(4 * num_in + 8, num_in, generator=generator, dtype=torch.float64)
    goal = torch.randn(len(rows), num_out, generator=generator, dtype=torch.float64)
    return rows.T @ rows / len(rows), rows.T @ goal / len(rows)


@settings(max_examples=30, deadline=None)
@given(num_in=st.integers(1, 8), num_out=st.integers(1, 8), seed=st.integers(0, 99))
def test_delta_solves_the_normal_equations_and_its_decrease_is_the_trace(num_in, num_out, seed):
    S, M = random_statistics(num_in, num_out, seed)
    delta, decrease = solve.optimal_delta(S, M, dtype=torch.float64)
    torch.testing.assert_close(S @ delta.T, M)
    torch.testing.assert_close(decrease, torch.trace(M @ delta))
    assert decrease > 0


def test_a_singular_second_moment_is_solved_by_its_pseudo_inverse():
    S, M = random_statistics(4, 2)
    S, M = torch.nn.functional.pad(S, (0, 2, 0, 2)), torch.nn.functional.pad(M, (0, 0, 0, 2))
    delta, decrease = solve.optimal_delta(S, M, dtype=torch.float64)
    torch.testing.assert_close(delta, (torch.linalg.pinv(S) @ M).T)
    assert decrease > 0
    assert not delta[:, 4:].any()


def test_statistics_that_predict_an_increase_of_the_loss_give_no_step():
    delta, decrease = solve.optimal_delta(-torch.eye(3), torch.ones(3, 2))
    assert not delta.any()
    assert decrease == 0


@settings(max_examples=30, deadline=None)
@given(num_prev=st.integers(1, 8), num_out=st.integers(1, 8), seed=st.integers(0, 99))
def test_alpha_s_alpha_equals_lambda_equals_omega_omega(num_prev, num_out, seed):
    S, N = random_statistics(num_prev, num_out, seed)
    new = solve.optimal_new_neurons(S, N, 0.0, 0.0)
    Lambda = torch.diag(new.eigenvalues)
    torch.testing.assert_close(new.alpha @ S @ new.alpha.T, Lambda)
    torch.testing.assert_close(new.omega.T @ new.omega, Lambda)
    # All neurons together reproduce S^-1 N, and each singular value squared is what it gains.
    torch.testing.assert_close(new.alpha.T @ new.omega.T, torch.linalg.solve(S, N))
    torch.testing.assert_close(new.eigenvalues.square().sum(), torch.trace(N.T @ torch.linalg.solve(S, N)))


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-4, 1e4), seed=st.integers(0, 99))
def test_scaling_the_loss_scales_lambda_and_keeps_the_same_neurons_under_relative_thresholds(scale, seed):
    S, N = random_statistics(6, 6, seed)
    old = solve.optimal_new_neurons(S, N, 1e-6, 0.5, relative_thresholds=True)
    new = solve.optimal_new_neurons(S, scale * N, 1e-6, 0.5, relative_thresholds=True)
    torch.testing.assert_close(new.eigenvalues, scale * old.eigenvalues)
    scaled_inputs = solve.optimal_new_neurons(scale * S, N, 1e-6, 0.5, relative_thresholds=True)
    assert len(scaled_inputs.eigenvalues) == len(old.eigenvalues)


def test_a_relative_ridge_acts_the_same_at_every_scale_of_the_inputs():
    S, M = random_statistics(5, 3)
    delta, _ = solve.optimal_delta(S, M, torch.float64, relative_ridge=0.1)
    scaled, _ = solve.optimal_delta(100 * S, 10 * M, torch.float64, relative_ridge=0.1)
    torch.testing.assert_close(scaled, delta / 10)
    plain, _ = solve.optimal_delta(S, M, torch.float64)
    assert delta.norm() < plain.norm()


@pytest.mark.parametrize(
    ("threshold", "maximum", "num_kept"),
    [(0.0, None, 3), (2.5, None, 1), (1.5, None, 2), (99.0, None, 1), (0.0, 2, 2), (0.0, 0, 0)],
)
def test_singular_values_from_the_threshold_up_are_kept_at_least_one_at_most_the_maximum(
    threshold, maximum, num_kept
):
    new = solve.optimal_new_neurons(
        torch.eye(3), torch.diag(torch.tensor([3.0, 2.0, 1.0])), 0.0, threshold, maximum
    )
    torch.testing.assert_close(new.eigenvalues, torch.tensor([3.0, 2.0, 1.0])[:num_kept])


def test_directions_without_variance_get_no_weight():
    S = torch.diag(torch.tensor([1.0, 1.0, 1e-12]))
    new = solve.optimal_new_neurons(S, torch.ones(3, 2))
    assert new.alpha[:, 2].abs().max() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_statistics_that_are_not_finite_are_refused(bad):
    S, M = random_statistics(3, 2)
    broken = M.clone()
    broken[0, 0] = bad
    with pytest.raises(ValueError, match=r"statistic M must be finite; 1 of its 6 entries"):
        solve.optimal_delta(S, broken)
    with pytest.raises(ValueError, match=r"statistic N must be finite"):
        solve.optimal_new_neurons(S, broken)


def test_a_negative_maximum_and_a_negative_ridge_are_refused():
    S, M = random_statistics(3, 2)
    with pytest.raises(ValueError, match=r"must not be negative; got -1"):
        solve.optimal_new_neurons(S, M, maximum_added_neurons=-1)
    with pytest.raises(ValueError, match=r"relative_ridge must not be negative; got -0.1"):
        solve.optimal_delta(S, M, relative_ridge=-0.1)
    with pytest.raises(ValueError, match=r"S \(3, 3\) and M \(4, 2\)"):
        solve.optimal_delta(S, torch.ones(4, 2))


@given(scale=st.floats(1e-2, 1e2), seed=st.integers(0, 99))
def test_scaling_the_inputs_leaves_the_decrease_and_shrinks_the_weights_that_read_them(scale, seed):
    """Inputs c b give c^2 S and c M: the step and alpha are divided by c; d, lambda and omega stay."""
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    M = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    S = b.T @ b / len(b)
    (delta, decrease), (delta_c, decrease_c) = (
        solve.optimal_delta(c**2 * S, c * M, torch.float64) for c in (1.0, scale)
    )
    torch.testing.assert_close(delta_c * scale, delta, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(decrease_c, decrease, rtol=1e-6, atol=1e-9)
    neurons, neurons_c = (
        solve.optimal_new_neurons(c**2 * S, c * M, relative_thresholds=True) for c in (1.0, scale)
    )
    torch.testing.assert_close(neurons_c.eigenvalues, neurons.eigenvalues, rtol=1e-6, atol=1e-9)
    ours, wanted = neurons_c.omega @ neurons_c.alpha * scale, neurons.omega @ neurons.alpha
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-8)
