"""The same layers and batches in the gromo package: equal statistics, steps and new neurons."""

import warnings

import pytest
import torch
from growth_networks import conv_pair, double_well, gather, linear_pair
from torch import nn

from growcore.growth import FullConv2dGrowingModule, RestrictedConv2dGrowingModule

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from gromo.modules.conv2d_growing_module import FullConv2dGrowingModule as TheirFullConv
    from gromo.modules.conv2d_growing_module import RestrictedConv2dGrowingModule as TheirConv
    from gromo.modules.linear_growing_module import LinearGrowingModule as TheirLinear


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def twins(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        other.layer.load_state_dict(mine.layer.state_dict())
    theirs[1].init_computation()
    return theirs


def run(modules, x):
    y = x
    for module in modules:
        y = module(y)
    double_well(y).backward()
    modules[1].update_computation()


def compare_neurons(mine, other):
    mine.compute_optimal_updates(1e-10, 1e-5)
    other.compute_optimal_updates(1e-10, 1e-5)
    torch.testing.assert_close(
        mine.parameter_update_decrease, other.parameter_update_decrease, rtol=1e-4, atol=0
    )
    torch.testing.assert_close(mine.eigenvalues_extension, other.eigenvalues_extension, rtol=1e-3, atol=1e-4)

    def product(module):
        omega, alpha = module.extended_input_layer.weight, module.previous_module.extended_output_layer.weight
        return torch.einsum("ok...,ka->oa...", omega, alpha.flatten(1))

    torch.testing.assert_close(product(mine), product(other), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("function", [nn.Identity(), nn.ReLU()])
def test_linear_pairs_agree(function):
    ours = linear_pair((7, 5, 4), function)
    first = TheirLinear(7, 5, post_layer_function=function)
    theirs = twins(ours, (first, TheirLinear(5, 4, previous_module=first, allow_growing=True)))
    x = torch.randn(500, 7)
    gather(list(ours), [ours[1]], [x])
    run(theirs, x)
    for name in ("tensor_s", "tensor_m", "tensor_m_prev", "cross_covariance", "tensor_s_growth"):
        torch.testing.assert_close(getattr(ours[1], name)(), getattr(theirs[1], name)(), rtol=1e-4, atol=1e-5)
    compare_neurons(ours[1], theirs[1])
    torch.testing.assert_close(
        ours[1].first_order_improvement, theirs[1].first_order_improvement, rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("geometry", [
    {"padding": 1}, {"padding": 1, "stride": 2}, {"padding": 0}, {"padding": 2, "dilation": 2},
])  # fmt: skip
def test_convolutions_agree_on_the_optimal_step_at_any_geometry(geometry):
    ours = conv_pair(function=nn.ReLU(), second=geometry)
    first = TheirConv(2, 3, 3, padding=1, post_layer_function=nn.ReLU(), input_size=(9, 9))
    theirs = twins(
        ours,
        (first, TheirConv(3, 4, 3, previous_module=first, allow_growing=True, input_size=(9, 9), **geometry)),
    )
    x = torch.randn(30, 2, 9, 9)
    gather(list(ours), [ours[1]], [x])
    run(theirs, x)
    torch.testing.assert_close(ours[1].tensor_s(), theirs[1].tensor_s(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours[1].tensor_m(), theirs[1].tensor_m(), rtol=1e-4, atol=1e-3)
    delta, bias, decrease = ours[1].compute_optimal_delta()
    their_delta, their_bias, their_decrease = theirs[1].compute_optimal_delta()
    torch.testing.assert_close(delta, their_delta, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(bias, their_bias, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(decrease, their_decrease, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("kind", "their_kind"),
    [(RestrictedConv2dGrowingModule, TheirConv), (FullConv2dGrowingModule, TheirFullConv)],
)
def test_convolutions_agree_on_the_new_channels_on_a_shared_grid(kind, their_kind):
    ours = conv_pair(function=nn.ReLU(), kind=kind)
    first = their_kind(2, 3, 3, padding=1, post_layer_function=nn.ReLU(), input_size=(9, 9))
    theirs = twins(
        ours,
        (first, their_kind(3, 4, 3, padding=1, previous_module=first, allow_growing=True, input_size=(9, 9))),
    )
    x = torch.randn(30, 2, 9, 9)
    gather(list(ours), [ours[1]], [x])
    run(theirs, x)
    compare_neurons(ours[1], theirs[1])
