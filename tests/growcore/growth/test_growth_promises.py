"""What a growth promises is what it brings: signs, functions that are not 0 at 0, and exact figures."""

import copy
from dataclasses import replace

import pytest
import torch
from growth_networks import chain, chain_extended, conv_pair, double_well, linear_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from growcore.growth import (
    Conv2dMergeGrowingModule,
    FullConv2dGrowingModule,
    LinearGrowingModule,
    LinearMergeGrowingModule,
    RestrictedConv2dGrowingModule,
)
from growcore.growth.extension import part_of, scaled, selected
from growcore.growth.layers import split_bias

GAMMA = 1e-4


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Bent(nn.Module):
    """A function of the user's own: two slopes at 0, and a value there."""

    def forward(self, x):
        return 0.3 + x.clamp(min=0) - 0.4 * (-x).clamp(min=0)


class Falling(nn.Module):
    """A function of the user's own that falls at 0."""

    def forward(self, x):
        return torch.sin(-x)


class Corner(nn.Module):
    """The absolute value: the mean of its slopes at 0 is 0."""

    def forward(self, x):
        return x.abs()


ONE_SIDED = [nn.ReLU(), nn.LeakyReLU(0.2), nn.PReLU(init=0.3), nn.ELU(0.3), Corner()]
SMOOTH = [nn.Identity(), nn.Tanh(), nn.GELU(), nn.SiLU(), Falling()]
RAISED = [nn.Sigmoid(), nn.Softplus(), Bent()]  # not 0 at 0
FUNCTIONS = [*ONE_SIDED, *SMOOTH, *RAISED]


class Pair(nn.Module):
    """Two layers, grown by the second."""

    def __init__(self, modules, x):
        super().__init__()
        self.modules_list, self.x, self.consumer = nn.ModuleList(modules), x, modules[1]

    def forward(self, x):
        return [chain(self.modules_list, x)]

    def extended_forward(self, x):
        return [chain_extended(self.modules_list, x)]


class Joined(nn.Module):
    """Layers side by side, added, and two readers of the sum."""

    def __init__(self, before, merge, behind, x):
        super().__init__()
        self.before, self.merge, self.behind = nn.ModuleList(before), merge, nn.ModuleList(behind)
        merge.set_previous_modules(list(before))
        merge.set_next_modules(list(behind))
        self.x, self.consumer = x, merge

    def forward(self, x):
        y = self.merge(sum(module(x) for module in self.before))
        return [module(y) for module in self.behind]

    def extended_forward(self, x):
        outputs = [module.extended_forward(x) for module in self.before]
        new = None if outputs[0][1] is None else sum(o[1] for o in outputs)
        y, y_ext = self.merge.extended_forward(sum(o[0] for o in outputs), new)
        return [module.extended_forward(y, y_ext)[0] for module in self.behind]


def linear(function):
    return Pair(linear_pair((5, 4, 3), function), torch.randn(40, 5))


def sequences(function):
    return Pair(linear_pair((5, 4, 3), function), torch.randn(12, 4, 5))


def restricted(function):
    return Pair(conv_pair((2, 3, 4), function, second={"stride": 2}), torch.randn(6, 2, 6, 6))


def full(function):
    pair = conv_pair((2, 3, 4), function, second={"padding": 0}, kind=FullConv2dGrowingModule)
    return Pair(pair, torch.randn(6, 2, 6, 6))


def linear_merge(function):
    before = [LinearGrowingModule(5, 3), LinearGrowingModule(5, 3, use_bias=False)]
    behind = [LinearGrowingModule(3, 4), LinearGrowingModule(3, 2)]
    return Joined(before, LinearMergeGrowingModule(function), behind, torch.randn(40, 5))


def merge_of_functions(function):
    before = [LinearGrowingModule(5, 3, post_layer_function=function) for _ in range(2)]
    return Joined(
        before, LinearMergeGrowingModule(nn.Tanh()), [LinearGrowingModule(3, 4)], torch.randn(40, 5)
    )


def conv_merge(function):
    before = [RestrictedConv2dGrowingModule(2, 3, 3, padding=1), RestrictedConv2dGrowingModule(2, 3, 1)]
    behind = [
        RestrictedConv2dGrowingModule(3, 4, 3, padding=1, stride=2),
        FullConv2dGrowingModule(3, 2, 3),
    ]
    return Joined(before, Conv2dMergeGrowingModule(function), behind, torch.randn(6, 2, 6, 6))


def pooled_merge(function):
    before = [RestrictedConv2dGrowingModule(2, 3, 3, padding=1)]
    pool = nn.Sequential(function, nn.AvgPool2d(3), nn.Flatten())
    behind = [LinearGrowingModule(12, 4)]
    return Joined(before, Conv2dMergeGrowingModule(pool), behind, torch.randn(60, 2, 6, 6))


NETWORKS = [linear, sequences, restricted, full, linear_merge, merge_of_functions, conv_merge, pooled_merge]


def loss(outputs):
    return sum(double_well(y) for y in outputs)


def made(network, function):
    net = network(copy.deepcopy(function)).double().eval()
    net.x = net.x.double()
    return net


def passes(net, batches, after):
    for x in batches:
        loss(net(x)).backward()
        after()
    net.zero_grad()


def solved(net, look=True, **keywords):
    """TINY's proposal on two batches, and a second look at them where it is needed."""
    batches = net.x.split(len(net.x) // 2)
    net.consumer.init_computation()
    passes(net, batches, net.consumer.update_computation)
    net.consumer.compute_optimal_updates(dtype=torch.float64, **keywords)
    if look:
        passes(net, batches, net.consumer.look_again)
        net.consumer.choose_signs()


def realised(net):
    """Decrease of the mean loss by the change as it is, per unit gamma^2."""
    net.consumer.set_scaling_factor(GAMMA)
    with torch.no_grad():
        return (loss(net(net.x)) - loss(net.extended_forward(net.x))).item() / len(net.x) / GAMMA**2


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("projected", [True, False])
def test_what_is_predicted_is_realised_as_the_scaling_factor_goes_to_zero(network, function, projected):
    net = made(network, function)
    solved(net, maximum_added_neurons=4, use_projected_gradient=projected)
    assert net.consumer.predicted_decrease == pytest.approx(realised(net), rel=5e-3)
    assert net.consumer.predicted_decrease > 0
    if net.consumer.extension.has_neurons:
        assert net.consumer.proposal().predicted_decrease == pytest.approx(net.consumer.predicted_decrease)
    else:
        assert projected  # the whole gradient has neurons that lower the loss by definition


@pytest.mark.parametrize("network", [linear, restricted, full, linear_merge, conv_merge, pooled_merge])
@pytest.mark.parametrize("function", [nn.ReLU(), nn.LeakyReLU(0.2), Bent()], ids=lambda f: type(f).__name__)
def test_the_better_of_two_signs_is_kept_and_a_neuron_that_brings_nothing_goes(network, function):
    """Against applying each neuron alone with either sign."""
    net = made(network, function)
    solved(net, look=False, maximum_added_neurons=4)
    consumer, whole = net.consumer, net.consumer.extension
    columns = [consumer.columns_per_neuron(reader) for reader in consumer.readers]
    alone = []
    for number in range(whole.num_neurons):
        keep = torch.arange(whole.num_neurons) == number
        one = part_of(selected(whole, keep, columns), with_step=False)
        gains = []
        for sign in (1.0, -1.0):
            consumer.extension = scaled(one, sign, sign)
            gains.append(realised(net))
        alone.append(max(gains))
    consumer.extension = whole
    passes(net, [net.x], consumer.look_again)
    consumer.choose_signs()
    expected = torch.tensor([gain for gain in alone if gain > 0], dtype=torch.float64)
    torch.testing.assert_close(consumer.extension.gains, expected, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("function", [nn.Tanh(), nn.GELU(), nn.Sigmoid()], ids=lambda f: type(f).__name__)
def test_a_second_look_at_a_smooth_function_measures_the_exact_figure(network, function):
    net = made(network, function)
    solved(net, look=False, maximum_added_neurons=3)
    exact = net.consumer.extension.gains
    passes(net, [net.x], net.consumer.look_again)
    torch.testing.assert_close(net.consumer.gathered.gains()[0], exact, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(net.consumer.gathered.gains()[1], exact, rtol=1e-4, atol=1e-9)


@given(seed=st.integers(0, 10**6), hidden=st.integers(1, 6), inputs=st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_no_chosen_relu_neuron_raises_the_loss_to_first_order(seed, hidden, inputs):
    torch.manual_seed(seed)
    net = Pair(linear_pair((inputs, hidden, 3), nn.ReLU()), torch.randn(30, inputs)).double()
    net.x = net.x.double()
    solved(net)
    gains = net.consumer.extension.gains
    assert gains is None or bool((gains > 0).all())


def test_a_one_sided_function_needs_a_second_look():
    net = made(linear, nn.ReLU())
    solved(net, look=False)
    with pytest.raises(ValueError, match=r"two slopes at 0.*call look_again\(\) after each"):
        net.consumer.choose_signs()
    net.consumer.delete_update()
    with pytest.raises(ValueError, match=r"has no new neurons to look at"):
        net.consumer.look_again()


@pytest.mark.parametrize("network", [linear, restricted, conv_merge, pooled_merge])
def test_gradmax_neurons_are_turned_so_that_their_first_step_lowers_the_loss_most(network):
    """One step of plain gradient on the incoming weights, from either sign."""
    net = made(network, nn.ReLU())
    net.consumer.init_computation()
    passes(net, [net.x], net.consumer.update_computation)
    net.consumer.compute_gradmax_updates(maximum_added_neurons=3, dtype=torch.float64)
    passes(net, [net.x], net.consumer.look_again)
    both = net.consumer.gathered.gains()
    net.consumer.choose_signs()
    gains = net.consumer.extension.gains
    torch.testing.assert_close(gains, both.max(0).values[both.max(0).values > 0])
    waiting = net.consumer.extension
    stepped = [copy.copy(new) for new in waiting.outputs]
    for number, (module, new) in enumerate(zip(net.consumer.producers, waiting.outputs, strict=True)):
        rows, bias = split_bias(new.towards, module.use_bias)
        stepped[number] = replace(new, weight=rows.reshape(new.weight.shape), bias=bias, towards=None)
    net.consumer.extension = replace(waiting, outputs=tuple(stepped))
    assert realised(net) == pytest.approx(float(gains.sum()), rel=5e-3)


def with_gradmax(net):
    net.consumer.init_computation()
    passes(net, [net.x], net.consumer.update_computation)
    net.consumer.compute_gradmax_updates(maximum_added_neurons=3, dtype=torch.float64)
    net.consumer.choose_signs()


def with_zeros(net):
    net.consumer.create_layer_extensions(3, input_extension_init="zeros")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("function", [nn.Sigmoid(), nn.Softplus(), nn.Tanh()], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("grow", [with_gradmax, with_zeros])
def test_growth_that_promises_no_change_leaves_the_function_as_it_is(network, function, grow):
    net = made(network, function)
    before = net(net.x)
    grow(net)
    net.consumer.set_scaling_factor(0.7)
    for ours, wanted in zip(net.extended_forward(net.x), before, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)
    net.consumer.apply_change()
    for ours, wanted in zip(net(net.x), before, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("function", RAISED, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("gamma", [1e-3, 0.5])
def test_growth_behind_a_function_not_0_at_0_bakes_in_the_extended_forward(network, function, gamma):
    net = made(network, function)
    solved(net, maximum_added_neurons=3, use_projected_gradient=False)
    net.consumer.set_scaling_factor(gamma)
    expected = net.extended_forward(net.x)
    net.consumer.load_proposal(net.consumer.proposal())
    net.consumer.apply_change()
    for ours, wanted in zip(net(net.x), expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)


def test_what_no_bias_can_take_off_is_refused_and_nothing_changes():
    first, second = linear_pair(function=nn.Sigmoid(), use_bias=False)
    second.create_layer_extensions(2)
    with pytest.raises(ValueError, match=r"give 0.5 at rest, which its bias would have to take off"):
        second.apply_change(1.0)
    with pytest.raises(ValueError, match=r"give 0.5 at rest"):
        second.proposal()
    assert (first.out_features, second.in_features) == (4, 4)
    second.create_layer_extensions(2, input_extension_init="zeros")
    second.apply_change(1.0)
    assert (first.out_features, second.in_features) == (6, 6)


def test_padding_in_which_rest_is_not_seen_is_refused():
    one, two = conv_pair(function=nn.Sigmoid(), kind=FullConv2dGrowingModule)
    two.create_layer_extensions(1)
    with pytest.raises(ValueError, match=r"is not seen in its padding of \(1, 1\)"):
        two.apply_change(1.0)
    assert (one.out_channels, two.in_channels) == (3, 3)


def test_where_no_gradient_arrives_nothing_is_proposed():
    net = made(linear, nn.Tanh())
    head = LinearGrowingModule(3, 2).double()
    nn.init.zeros_(head.weight)
    first, second = net.modules_list
    second.init_computation()
    double_well(head(torch.tanh(second(first(net.x))))).backward()
    second.update_computation()
    second.compute_optimal_updates()
    assert second.extension.num_neurons == 0
    with pytest.raises(ValueError, match=r"has no new neurons to propose"):
        second.proposal()
    second.apply_change(1.0)
    assert (first.out_features, second.in_features) == (4, 4)
    second.compute_gradmax_updates()
    with pytest.raises(ValueError, match=r"has no new neurons to propose"):
        second.proposal()


def test_neurons_of_zeros_on_both_sides_are_no_proposal():
    _, second = linear_pair()
    second.create_layer_extensions(2, output_extension_init="zeros", input_extension_init="zeros")
    with pytest.raises(ValueError, match=r"are zero on both sides"):
        second.proposal()
