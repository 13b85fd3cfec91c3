import pytest
import torch
from growth_networks import (
    chain,
    chain_extended,
    conv_pair,
    double_well,
    gather,
    literal_restricted,
    taps_at,
    with_one,
)
from torch import nn

from growcore.growth import RestrictedConv2dGrowingModule

GEOMETRIES = [
    ({}, {}),
    ({}, {"stride": 2}),
    ({"stride": 2}, {"stride": 2}),
    ({"padding": 0}, {"padding": 0}),
    ({"kernel_size": 5, "padding": 2}, {"dilation": 2, "padding": 2}),
    ({"kernel_size": 1, "padding": 0}, {"padding": 3}),
    ({"kernel_size": 4, "padding": 2, "dilation": 1}, {"padding": 2, "stride": 3}),
    ({"use_bias": False}, {"use_bias": False, "padding": 2, "stride": 2}),
    ({"stride": 3, "dilation": 2, "padding": 2}, {"kernel_size": 1, "padding": 1}),
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("first", "second"), GEOMETRIES)
def test_pair_statistics_are_those_of_a_literal_loop_over_positions(first, second):
    one, two = conv_pair(function=nn.Tanh(), first=first, second=second)
    x = torch.randn(5, 2, 9, 9)
    gather([one, two], [two], [x])
    expected = literal_restricted(one, two, x)
    torch.testing.assert_close(two.tensor_m_prev(), expected["m_prev"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(two.cross_covariance(), expected["c"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(two.tensor_s_growth(), expected["s_growth"], rtol=1e-4, atol=1e-4)
    if one.use_bias:
        torch.testing.assert_close(two.growth_mean(), expected["s_growth"][:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("first", "second"), GEOMETRIES)
def test_own_statistics_are_those_of_a_literal_loop_over_positions(first, second):
    one, two = conv_pair(function=nn.Tanh(), first=first, second=second)
    gather([one, two], [two], [torch.randn(4, 2, 9, 9)])
    g, S, M = two.pre_activity.grad, 0.0, 0.0
    for row in range(g.shape[2]):
        for column in range(g.shape[3]):
            b = with_one(taps_at(two.layer, two.input, row, column), two.use_bias)
            S, M = S + b.T @ b / 4, M + b.T @ g[:, :, row, column] / 4
    torch.testing.assert_close(two.tensor_s(), S, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(two.tensor_m(), M, rtol=1e-4, atol=1e-4)


def test_batches_of_any_size_add_up_to_the_whole():
    one, two = conv_pair()
    x = torch.randn(7, 2, 6, 6)
    gather([one, two], [two], [x])
    whole = [s() for s in two.statistics()]
    gather([one, two], [two], [x[:2], x[2:]])
    for statistic, expected in zip(two.statistics(), whole, strict=True):
        torch.testing.assert_close(statistic(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("first", "second"), GEOMETRIES)
def test_alpha_s_alpha_equals_lambda_and_the_derivative_is_predicted(first, second):
    """Identity activation: the loss falls at the rate first_order_improvement as gamma^2 rises from 0.

    Without projection, because what the other taps see is not in reach of the new channels.
    """
    one, two = (m.double() for m in conv_pair(first=first, second=second))
    x = torch.randn(20, 2, 9, 9, dtype=torch.float64)
    gather([one, two], [two], [x])
    two.compute_optimal_updates(dtype=torch.float64, maximum_added_neurons=2, use_projected_gradient=False)
    alpha = one.extended_output_layer.weight.flatten(1)
    if one.use_bias:
        alpha = torch.cat([alpha, one.extended_output_layer.bias[:, None]], dim=1)
    Lambda = torch.diag(two.eigenvalues_extension)
    torch.testing.assert_close(alpha @ two.tensor_s_growth() @ alpha.T, Lambda, rtol=1e-6, atol=1e-9)
    omega = two.extended_input_layer.weight.flatten(2).sum(2)
    torch.testing.assert_close(omega.T @ omega, Lambda, rtol=1e-6, atol=1e-9)

    two.set_scaling_factor(1e-4)
    before = double_well(chain([one, two], x)).item() / 20
    after = double_well(chain_extended([one, two], x)).item() / 20
    assert (before - after) / 1e-8 == pytest.approx(two.first_order_improvement.item(), rel=1e-4)


@pytest.mark.parametrize(("first", "second"), GEOMETRIES)
def test_three_growths_bake_in_exactly_the_extended_forward(first, second):
    function = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True))
    one, two = conv_pair(function=function, first=first, second=second)
    modules, x = [one.eval(), two], torch.randn(8, 2, 9, 9)
    for num_channels in (4, 5, 6):
        gather(modules, [two], [x])
        two.compute_optimal_updates(maximum_added_neurons=1)
        two.normalize_optimal_updates()
        two.set_scaling_factor(0.5)
        expected = chain_extended(modules, x)
        two.apply_change()
        two.delete_update()
        two.reset_computation()
        torch.testing.assert_close(chain(modules, x), expected, rtol=1e-4, atol=1e-5)
        assert (one.out_channels, two.in_channels) == (num_channels, num_channels)


def test_n_by_the_second_pass_is_n_by_the_cross_covariance():
    one, two = (m.double() for m in conv_pair(function=nn.ReLU(), second={"stride": 2}))
    gather([one, two], [two], [torch.randn(9, 2, 8, 8, dtype=torch.float64)])
    two.compute_optimal_delta(dtype=torch.float64)
    update, num_samples = two.compute_n_update()
    torch.testing.assert_close(update / num_samples, two.tensor_n)


def test_new_batch_norm_channels_have_the_moments_they_will_see():
    one, two = conv_pair(function=nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), first={"use_bias": False})
    x = torch.randn(64, 2, 8, 8) + 1
    gather([one, two], [two], [x])
    two.compute_optimal_updates(maximum_added_neurons=2)
    two.apply_change(scaling_factor=0.5)
    norm, new = one.post_layer_function[0], one.layer(x)[:, 3:]
    torch.testing.assert_close(norm.running_mean[3:], new.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var[3:], new.var((0, 2, 3), correction=0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one(x)[:, 3:], new.relu(), rtol=1e-3, atol=1e-3)


def test_random_extensions_grow_to_the_target_by_the_whole_kernel():
    one = RestrictedConv2dGrowingModule(2, 3, 3, padding=1)
    two = RestrictedConv2dGrowingModule(3, 4, 3, padding=1, previous_module=one, target_in_channels=9)
    two.complete_growth({})
    assert two.in_channels == one.out_channels == 9
    assert two.weight[:, 3:].count_nonzero() == 4 * 6 * 9
    proposal_free = two.proposal if two.extended_input_layer is not None else None
    assert proposal_free is None


def test_pairs_that_growth_is_not_defined_for_are_refused():
    with pytest.raises(ValueError, match=r"its sides must be odd; .* has kernel_size=\(2, 2\)"):
        conv_pair(second={"kernel_size": 2})[1].init_computation()
    grouped = RestrictedConv2dGrowingModule(4, 4, 3, padding=1, layer=nn.Conv2d(4, 4, 3, padding=1, groups=2))
    after = RestrictedConv2dGrowingModule(4, 4, 3, padding=1, previous_module=grouped)
    with pytest.raises(ValueError, match=r"has groups=2"):
        after.create_layer_extensions(1)


def test_a_pool_inside_the_pair_is_refused():
    one, two = conv_pair(function=nn.MaxPool2d(2))
    with pytest.raises(ValueError, match=r"makes a \(8, 8\) map, .* reads \(4, 4\). Downsample by stride"):
        gather([one, two], [two], [torch.randn(2, 2, 8, 8)])


def test_input_size_is_known_from_what_was_given_stored_or_comes_before():
    one = RestrictedConv2dGrowingModule(2, 3, 3, stride=2, padding=1, input_size=(8, 10))
    two = RestrictedConv2dGrowingModule(3, 4, 3, previous_module=one)
    assert two.update_input_size() is None
    assert two.update_input_size(compute_from_previous=True) == (4, 5)
    assert two.update_input_size((7, 7), force_update=False) == (4, 5)
    assert two.update_input_size((7, 7)) == (7, 7)
