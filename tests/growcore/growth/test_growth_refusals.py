"""What cannot grow is refused by name, before anything changes."""

import pytest
import torch
from growth_networks import chain, conv_pair, linear_pair
from torch import nn
from torch.nn.utils import parametrizations

from growcore.growth import (
    Conv2dMergeGrowingModule,
    FullConv2dGrowingModule,
    GrowingModule,
    LinearGrowingModule,
    RestrictedConv2dGrowingModule,
)


def sizes(*modules):
    return [tuple(module.weight.shape) for module in modules]


@pytest.mark.parametrize("pair", [linear_pair, conv_pair])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(None, 2), (2, None), (1, 2), (3, 2)])
def test_one_side_alone_or_unequal_sides_change_nothing(pair, num_outputs, num_inputs):
    first, second = pair()
    before = sizes(first, second)
    if num_outputs:
        first.create_layer_out_extension(num_outputs)
    if num_inputs:
        second.create_layer_in_extension(num_inputs)
    got = f"got {num_outputs or 'no'} new outputs .* and {num_inputs or 'no'} new inputs"
    with pytest.raises(ValueError, match=got):
        second.apply_change(scaling_factor=1.0)
    assert sizes(first, second) == before
    chain([first, second], torch.randn(2, 5) if pair is linear_pair else torch.randn(2, 2, 5, 5))


def test_without_the_extension_neither_side_grows():
    first, second = linear_pair()
    second.create_layer_extensions(2)
    second.apply_change(1.0, apply_extension=False)
    assert sizes(first, second) == [(4, 5), (3, 4)]


def test_sides_of_a_merge_that_do_not_belong_change_nothing():
    before = [RestrictedConv2dGrowingModule(2, 3, 3, padding=1) for _ in range(2)]
    behind = RestrictedConv2dGrowingModule(3, 4, 3, padding=1)
    merge = Conv2dMergeGrowingModule(None, before, [behind])
    merge.create_layer_extensions(2)
    before[1].create_layer_out_extension(1)
    with pytest.raises(ValueError, match=r"got 2, 1 new outputs before it and 2 new inputs"):
        merge.apply_change(1.0)
    assert sizes(*before, behind) == [(3, 2, 3, 3), (3, 2, 3, 3), (4, 3, 3, 3)]


@pytest.mark.parametrize(
    "layer",
    [nn.ConvTranspose2d(2, 3, 3), nn.Conv1d(2, 3, 3), nn.Conv3d(2, 3, 3), nn.Bilinear(2, 2, 2), nn.ReLU()],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_cannot_grow_are_refused_at_construction(layer):
    with pytest.raises(ValueError, match=rf"stem has a {type(layer).__name__}"):
        GrowingModule(layer, allow_growing=False, name="stem")
    with pytest.raises(ValueError, match=rf"stem has a {type(layer).__name__}"):
        LinearGrowingModule(2, 3, layer=layer, name="stem")
    with pytest.raises(ValueError, match=rf"stem has a {type(layer).__name__}"):
        RestrictedConv2dGrowingModule(2, 3, 3, layer=layer, name="stem")


def test_a_layer_of_the_other_kind_or_without_weights_is_refused():
    with pytest.raises(ValueError, match=r"head grows an nn.Linear; got Conv2d"):
        LinearGrowingModule(2, 3, layer=nn.Conv2d(2, 3, 3), name="head")
    with pytest.raises(ValueError, match=r"stem grows an nn.Conv2d; got Linear"):
        FullConv2dGrowingModule(2, 3, 3, layer=nn.Linear(2, 3), name="stem")
    with pytest.raises(ValueError, match=r"head has a LazyLinear without weights yet"):
        GrowingModule(nn.LazyLinear(3), allow_growing=False, name="head")


PARAMETRIZED = {
    "weight_norm": parametrizations.weight_norm,
    "old_weight_norm": lambda layer: torch.nn.utils.weight_norm(layer),
    "spectral_norm": parametrizations.spectral_norm,
    "old_spectral_norm": lambda layer: torch.nn.utils.spectral_norm(layer),
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("parametrize", PARAMETRIZED.values(), ids=PARAMETRIZED)
def test_computed_weights_are_refused_at_construction_and_when_growth_is_asked_for(parametrize):
    with pytest.raises(ValueError, match=r"The weight of fc1 is computed"):
        LinearGrowingModule(5, 4, layer=parametrize(nn.Linear(5, 4)), name="fc1")
    first = LinearGrowingModule(5, 4, name="fc1")
    second = LinearGrowingModule(4, 3, previous_module=first, allow_growing=True)
    parametrize(first.layer)
    with pytest.raises(ValueError, match=r"The weight of fc1 is computed"):
        second.create_layer_extensions(1)


def test_a_depthwise_convolution_behind_a_layer_is_refused_when_growth_is_asked_for():
    depthwise = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1, groups=3))
    one = RestrictedConv2dGrowingModule(2, 3, 3, padding=1, post_layer_function=depthwise, name="conv1")
    two = RestrictedConv2dGrowingModule(3, 4, 3, padding=1, previous_module=one, allow_growing=True)
    x = torch.randn(4, 2, 6, 6)
    message = r"What follows conv1 must grow with it; Conv2d keeps values per channel"
    two.init_computation()
    two(one(x)).square().sum().backward()
    two.update_computation()
    for grow in (
        two.compute_optimal_updates,
        two.compute_gradmax_updates,
        lambda: two.create_layer_extensions(1),
    ):
        with pytest.raises(ValueError, match=message):
            grow()
    merge = Conv2dMergeGrowingModule(None, [one], [RestrictedConv2dGrowingModule(3, 4, 1)])
    with pytest.raises(ValueError, match=message):
        merge.create_layer_extensions(1)


@pytest.mark.parametrize("kind", [RestrictedConv2dGrowingModule, FullConv2dGrowingModule])
@pytest.mark.parametrize("padding", [0, 1, (2, 1), "same", "valid"])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_padding_that_is_set_is_that_of_the_layer(kind, padding, mode):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, padding_mode=mode)
    module, x = kind(2, 3, 3, layer=layer), torch.randn(2, 2, 7, 7)
    module.padding = padding
    like = nn.Conv2d(2, 3, 3, padding=padding, padding_mode=mode)
    like.load_state_dict(layer.state_dict())
    assert module.padding == like.padding
    torch.testing.assert_close(module(x), like(x))


def test_padding_that_no_layer_has_is_refused():
    module = RestrictedConv2dGrowingModule(2, 3, 3, stride=2)
    for padding in (-1, "same", "full", (1, 1, 1)):
        with pytest.raises(ValueError, match=r"padding must be a number or a pair"):
            module.padding = padding
    assert module.padding == (0, 0)
