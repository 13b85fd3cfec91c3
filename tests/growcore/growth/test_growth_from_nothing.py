"""Pairs that start without hidden neurons."""

import pytest
import torch
from growth_networks import chain, chain_extended, gather
from torch import nn

from growcore.growth import FullConv2dGrowingModule, LinearGrowingModule, RestrictedConv2dGrowingModule

PAIRS = {
    "linear": (LinearGrowingModule, {}, (40, 5), nn.BatchNorm1d),
    "restricted": (
        RestrictedConv2dGrowingModule,
        {"kernel_size": 3, "padding": 1},
        (9, 5, 6, 6),
        nn.BatchNorm2d,
    ),
    "full": (FullConv2dGrowingModule, {"kernel_size": 3, "padding": 1}, (9, 5, 6, 6), nn.BatchNorm2d),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def empty_pair(name, use_bias, with_norm):
    kind, geometry, shape, norm = PAIRS[name]
    function = nn.Sequential(norm(0), nn.ReLU()) if with_norm else nn.ReLU()
    first = kind(5, 0, post_layer_function=function, use_bias=use_bias, **geometry)
    second = kind(0, 3, previous_module=first, use_bias=use_bias, target_in_channels=4, **geometry) if (
        name != "linear"
    ) else kind(0, 3, previous_module=first, use_bias=use_bias, target_in_features=4)  # fmt: skip
    return [first, second], torch.randn(shape)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_the_optimum_is_found_where_there_was_no_neuron(name, use_bias):
    modules, x = empty_pair(name, use_bias, with_norm=False)
    goal = torch.randn(x.shape[0], 3, *x.shape[2:])
    gather(modules, [modules[1]], [x], lambda y: (y - goal).square().sum())
    modules[1].compute_optimal_updates(maximum_added_neurons=2)
    modules[1].normalize_optimal_updates()
    modules[1].set_scaling_factor(0.1)
    expected = chain_extended(modules, x)
    modules[1].apply_change()
    torch.testing.assert_close(chain(modules, x), expected)
    assert modules[0].out_neurons == modules[1].in_neurons == 2
    assert modules[1].first_order_improvement > 0


@pytest.mark.parametrize("with_norm", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_an_empty_pair_grows_at_random_to_its_target(name, with_norm):
    modules, x = empty_pair(name, True, with_norm)
    before = chain([m.eval() for m in modules], x)
    assert before.shape == (x.shape[0], 3, *x.shape[2:])
    modules[1].complete_growth({})
    assert modules[1].in_neurons == 4
    assert modules[1].weight.std() > 0
    assert modules[0].weight.std() > 0
    chain([m.train() for m in modules], x).sum().backward()
