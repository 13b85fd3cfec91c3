"""How growcore.growth is built: few ancestors, no torch before it is used, records behind real layers."""

import copy
import gc
import importlib
import inspect
import pkgutil
import subprocess
import sys
import weakref

import pytest
import torch
from growth_networks import chain, chain_extended, gather, linear_pair
from torch import nn

import growcore.growth


def classes_of_growth():
    for info in pkgutil.walk_packages(growcore.growth.__path__, "growcore.growth."):
        for _, found in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            if found.__module__ == info.name:
                yield found


def test_no_class_has_more_than_two_ancestors_of_ours():
    ancestors = {
        found: [base for base in found.__mro__[1:] if base.__module__.startswith("growcore")]
        for found in classes_of_growth()
    }
    assert growcore.growth.FullConv2dGrowingModule in ancestors
    assert {found.__name__: bases for found, bases in ancestors.items() if len(bases) > 2} == {}


def test_growth_alone_imports_no_torch():
    program = "import sys, growcore.growth; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    "kind", ["LinearGrowingModule", "FullConv2dGrowingModule", "LinearMergeGrowingModule"]
)
def test_pairs_and_merges_answer_the_same_calls(kind):
    """What a growth method may call, whichever consumer it grows."""
    calls = (
        "init_computation update_computation reduce_computation reset_computation compute_optimal_updates "
        "compute_gradmax_updates normalize_optimal_updates create_layer_extensions scale_layer_extension "
        "set_scaling_factor apply_change delete_update proposal load_proposal columns_per_neuron "
        "check_neighbours missing_neurons number_of_neurons_to_add complete_growth"
    )
    values = "producers readers in_neurons extension first_order_improvement tensor_s_growth growth_mean"
    found = getattr(growcore.growth, kind)
    assert all(callable(getattr(found, name)) for name in calls.split())
    assert all(isinstance(getattr(found, name), property) for name in values.split())


@pytest.mark.parametrize("name", ["scale_layer_extension", "compute_gradmax_updates", "complete_growth"])
def test_what_pairs_and_merges_share_is_written_once(name):
    pair, merge = growcore.growth.GrowingModule, growcore.growth.MergeGrowingModule
    assert getattr(pair, name) is getattr(merge, name)


def proposed_pair():
    torch.manual_seed(0)
    modules = list(linear_pair((6, 4, 3), nn.Tanh()))
    x = torch.randn(40, 6)
    gather(modules, [modules[1]], [x])
    modules[1].compute_optimal_updates(maximum_added_neurons=2)
    modules[1].set_scaling_factor(0.5)
    return modules, x


@pytest.mark.parametrize("name", ["extended_output_layer", "extended_input_layer", "optimal_delta_layer"])
def test_a_layer_of_the_extension_changed_in_place_or_set_is_the_one_that_is_applied(name):
    for change in ("in place", "set"):
        modules, x = proposed_pair()
        owner = modules[0] if name == "extended_output_layer" else modules[1]
        layer = getattr(owner, name)
        assert getattr(owner, name) is layer
        if change == "in place":
            nn.init.constant_(layer.weight, 0.3)
        else:
            other = copy.deepcopy(layer)
            nn.init.constant_(other.weight, 0.3)
            setattr(owner, name, other)
        expected = chain_extended(modules, x)
        modules[1].load_proposal(modules[1].proposal())
        modules[1].apply_change()
        torch.testing.assert_close(chain(modules, x), expected)


def test_a_copy_has_layers_of_an_extension_of_its_own():
    modules, _ = proposed_pair()
    layer = modules[1].extended_input_layer
    twin = copy.deepcopy(nn.Sequential(*modules))
    nn.init.zeros_(twin[1].extended_input_layer.weight)
    assert layer.weight.all()
    assert not twin[1].proposal().omega.any()


def test_layers_of_an_extension_keep_their_gradients_and_go_with_it():
    modules, x = proposed_pair()
    chain_extended(modules, x).sum().backward()
    assert modules[0].extended_output_layer.weight.grad.abs().sum() > 0
    layer = weakref.ref(modules[0].extended_output_layer)
    modules[1].delete_update()
    gc.collect()
    assert modules[0].extended_output_layer is None
    assert layer() is None


def test_a_module_that_changes_its_precision_takes_its_extension_along():
    modules, x = proposed_pair()
    _ = modules[0].extended_output_layer
    net = nn.Sequential(*modules).double()
    expected = chain_extended(list(net), x.double())
    net[1].apply_change()
    torch.testing.assert_close(net(x.double()), expected)
