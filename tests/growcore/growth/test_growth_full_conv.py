import pytest
import torch
from growth_networks import chain, chain_extended, conv_pair, double_well, gather, literal_full
from torch import nn

from growcore.growth import FullConv2dGrowingModule

GEOMETRIES = [
    ({}, {}),
    ({}, {"stride": 2}),
    ({"stride": 2}, {"kernel_size": 2, "padding": 1}),
    ({"padding": 0}, {"padding": 0}),
    ({"kernel_size": 5, "padding": 2}, {"dilation": 2, "padding": 1}),
    ({"kernel_size": 1, "padding": 0}, {"padding": 3}),
    ({"use_bias": False}, {"use_bias": False, "padding": 2, "stride": 3}),
]


def full_pair(first, second, function=None):
    return conv_pair(function=function, first=first, second=second, kind=FullConv2dGrowingModule)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("first", "second"), GEOMETRIES)
def test_pair_statistics_are_those_of_a_literal_loop_over_positions_and_taps(first, second):
    one, two = full_pair(first, second, nn.Tanh())
    x = torch.randn(3, 2, 9, 8)
    gather([one, two], [two], [x])
    expected = literal_full(one, two, x)
    torch.testing.assert_close(two.tensor_m_prev(), expected["m_prev"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(two.cross_covariance(), expected["c"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(two.tensor_s_growth(), expected["s_growth"], rtol=1e-4, atol=1e-4)
    if one.use_bias:
        torch.testing.assert_close(two.growth_mean(), expected["s_growth"][:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("first", "second"), GEOMETRIES)
def test_alpha_s_alpha_equals_lambda_and_the_derivative_is_predicted(first, second):
    one, two = (m.double() for m in full_pair(first, second))
    x = torch.randn(20, 2, 9, 8, dtype=torch.float64)
    gather([one, two], [two], [x])
    two.compute_optimal_updates(dtype=torch.float64, maximum_added_neurons=2, use_projected_gradient=False)
    alpha = one.extended_output_layer.weight.flatten(1)
    if one.use_bias:
        alpha = torch.cat([alpha, one.extended_output_layer.bias[:, None]], dim=1)
    Lambda = torch.diag(two.eigenvalues_extension)
    torch.testing.assert_close(alpha @ two.tensor_s_growth() @ alpha.T, Lambda, rtol=1e-6, atol=1e-9)
    omega = two.extended_input_layer.weight.transpose(1, 3).flatten(0, 2)
    torch.testing.assert_close(omega.T @ omega, Lambda, rtol=1e-6, atol=1e-9)
    two.set_scaling_factor(1e-4)
    before = double_well(chain([one, two], x)).item() / 20
    after = double_well(chain_extended([one, two], x)).item() / 20
    assert (before - after) / 1e-8 == pytest.approx(two.first_order_improvement.item(), rel=1e-4)


@pytest.mark.parametrize(("first", "second"), GEOMETRIES)
def test_three_growths_bake_in_exactly_the_extended_forward(first, second):
    function = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True))
    one, two = full_pair(first, second, function)
    modules, x = [one.eval(), two], torch.randn(8, 2, 9, 8)
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


@pytest.mark.parametrize(("first", "second"), GEOMETRIES[:2])
def test_n_by_the_second_pass_is_n_by_the_cross_covariance(first, second):
    one, two = (m.double() for m in full_pair(first, second, nn.ReLU()))
    gather([one, two], [two], [torch.randn(9, 2, 8, 8, dtype=torch.float64)])
    two.compute_optimal_delta(dtype=torch.float64)
    update, num_samples = two.compute_n_update()
    torch.testing.assert_close(update / num_samples, two.tensor_n)


def test_new_channels_padded_by_anything_but_zeros_are_refused():
    one = FullConv2dGrowingModule(2, 3, 3, padding=1)
    layer = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")
    two = FullConv2dGrowingModule(3, 3, 3, padding=1, layer=layer, previous_module=one)
    with pytest.raises(ValueError, match=r"has padding_mode='reflect'"):
        two.create_layer_extensions(1)
