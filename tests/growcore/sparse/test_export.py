import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from growcore.sparse import DSConv2d, DSLinear
from growcore.sparse.export import (
    bake,
    plain,
    two_of_four,
    without_features,
    without_inputs,
    without_outputs,
)

torch.set_num_threads(1)


def prune_channels(layer, dead):
    """A mask in which whole outputs and some single connections are pruned."""
    alive = torch.rand(layer.weight.shape) < 0.7
    alive[dead] = False
    layer.start_sparse(alive)


def network(padding_mode="zeros", padding=1, norm=True):
    def block(c_in, c_out):
        after = [nn.BatchNorm2d(c_out)] if norm else []
        conv = DSConv2d(c_in, c_out, 3, padding=padding, padding_mode=padding_mode)
        return [conv, nn.Sequential(*after, nn.ReLU())]

    return nn.Sequential(
        *block(3, 8),
        *block(8, 8),
        nn.AvgPool2d(2),
        nn.Flatten(),
        DSLinear(8 * (4 + 2 * padding) ** 2, 10),
        nn.Tanh(),
        nn.Linear(10, 4),
    )


def trained(model):
    """Norms with statistics and affine parameters of their own, so that constants are not zero."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


@pytest.mark.parametrize(("mode", "padding"), [("zeros", 1), ("zeros", 0), ("circular", 1)])
@pytest.mark.parametrize("norm", [True, False])
def test_a_baked_network_computes_the_same_with_fewer_channels(mode, padding, norm):
    torch.manual_seed(0)
    model = trained(network(mode, padding, norm))
    prune_channels(model[0], [0, 3, 5])
    prune_channels(model[2], [1, 2])
    prune_channels(model[-3], [0, 7])
    state = copy.deepcopy(model.state_dict())
    baked = bake(model)
    x = torch.randn(5, 3, 12, 12)
    torch.testing.assert_close(baked(x), model(x), rtol=1e-5, atol=1e-5)
    assert not any(isinstance(module, DSConv2d | DSLinear) for module in baked.modules())
    assert baked[-3].out_features == 8
    assert baked[2].out_channels == 6  # read without padding, constants move into the bias
    if padding == 0 or mode == "circular":
        assert baked[0].out_channels == 5
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    loss = baked(x).sum()
    loss.backward()  # plain parameters, all of them trainable


def test_channels_that_are_constant_but_not_zero_stay_before_zero_padding():
    torch.manual_seed(0)
    model = nn.Sequential(DSConv2d(2, 3, 3), DSConv2d(3, 2, 3, padding=1)).eval()
    alive = torch.ones(3, 2, 3, 3, dtype=torch.bool)
    alive[0] = False
    model[0].start_sparse(alive)
    x = torch.randn(2, 2, 6, 6)
    assert bake(model)[0].out_channels == 3
    with torch.no_grad():
        model[0].bias[0] = 0.0
    baked = bake(model)
    assert baked[0].out_channels == 2
    torch.testing.assert_close(baked(x), model(x), rtol=1e-5, atol=1e-5)


def test_what_nobody_reads_goes_and_takes_what_only_it_read_along():
    torch.manual_seed(0)
    model = nn.Sequential(DSLinear(4, 5), nn.ReLU(), DSLinear(5, 5), nn.ReLU(), DSLinear(5, 2)).eval()
    read = torch.ones(2, 5, dtype=torch.bool)
    read[:, 1:] = False
    model[4].start_sparse(read)  # reads neuron 0 only ...
    middle = torch.zeros(5, 5, dtype=torch.bool)
    middle[0, 2:4] = True
    middle[1:] = True
    model[2].start_sparse(middle)  # ... which reads 2 and 3 only
    baked = bake(model)
    assert [baked[i].out_features for i in (0, 2, 4)] == [2, 1, 2]
    x = torch.randn(7, 4)
    torch.testing.assert_close(baked(x), model(x), rtol=1e-5, atol=1e-5)


@settings(max_examples=15)
@given(seed=st.integers(0, 999), share=st.floats(0.0, 1.0))
def test_baking_never_changes_the_function_whatever_the_masks(seed, share):
    torch.manual_seed(seed)
    model = trained(network(padding=seed % 2, norm=seed % 3 > 0))
    for module in model.modules():
        if isinstance(module, DSConv2d | DSLinear):
            alive = torch.rand(module.weight.shape) < share
            alive[torch.rand(alive.shape[0]) < 0.4] = False
            module.start_sparse(alive)
    x = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(bake(model)(x), model(x), rtol=1e-5, atol=1e-5)


def test_layers_outside_a_chain_are_made_plain_and_keep_their_channels():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = DSConv2d(3, 3, 3, padding=1, groups=3, bias=False)

        def forward(self, x):
            return x + self.conv(x)

    model = nn.Sequential(nn.Conv2d(2, 3, 1), Residual(), nn.Conv2d(3, 2, 1)).eval()
    model[1].conv.start_sparse(torch.zeros(3, 1, 3, 3, dtype=torch.bool))
    baked = bake(model)
    x = torch.randn(2, 2, 4, 4)
    assert type(baked[1].conv) is nn.Conv2d
    assert baked[0].out_channels == 3
    assert baked(x).equal(model(x))


def test_a_plain_layer_ignores_what_momentum_left_at_pruned_weights():
    layer = DSLinear(4, 3)
    layer.start_sparse(torch.eye(3, 4, dtype=torch.bool))
    with torch.no_grad():
        layer.weight.add_(1.0)
    made = plain(layer)
    x = torch.randn(2, 4)
    assert made(x).equal(layer(x))
    assert int(torch.count_nonzero(made.weight)) == 3
    assert made.weight.data_ptr() != layer.weight.data_ptr()


def test_a_2_of_4_mask_keeps_the_two_largest_of_each_four_inputs():
    weight = torch.tensor([[1.0, -3, 2, 0, 5, 5, 5, 5]])
    expected = torch.tensor([[False, True, True, False, True, True, False, False]])
    assert two_of_four(weight).equal(expected)
    mask = two_of_four(torch.randn(6, 8, 3, 3))
    assert (mask.reshape(-1, 4).sum(1) == 2).all()
    layer = DSLinear(8, 3)
    layer.start_sparse(two_of_four(layer.weight))
    assert layer.density == 0.5
    with pytest.raises(ValueError, match=r"multiple of 4 inputs.*got 27"):
        two_of_four(torch.randn(2, 3, 3, 3))


def test_neurons_cut_out_by_hand_leave_the_function_of_the_others():
    torch.manual_seed(0)
    producer, norm, consumer = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 16, 3)
    trained(nn.Sequential(norm))
    keep = torch.tensor([True, False, True, True])
    x = torch.randn(2, 2, 6, 6)
    hidden = norm(producer(x)) * keep[:, None, None]
    expected = consumer(hidden.flatten(1))
    without_outputs(producer, keep)
    without_features(norm, keep)
    without_inputs(consumer, keep)
    assert (producer.out_channels, norm.num_features, consumer.in_features) == (3, 3, 48)
    torch.testing.assert_close(consumer(norm(producer(x)).flatten(1)), expected)
    with pytest.raises(ValueError, match=r"grouped convolution.*groups=2"):
        without_outputs(nn.Conv2d(2, 4, 1, groups=2), keep)
