import copy

import pytest
import torch
from test_growth_merge import JOINS, Joined, flat_join, linear_join, loss
from torch import nn

from growcore.growth import (
    Conv2dMergeGrowingModule,
    LinearGrowingModule,
    LinearMergeGrowingModule,
    RestrictedConv2dGrowingModule,
    remove_neurons,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def normed_join():
    """A convolution with its own normalisation and nonlinearity, pooled and flattened for a linear reader."""
    function = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    before = [RestrictedConv2dGrowingModule(2, 3, 3, padding=1, post_layer_function=function)]
    pool = nn.Sequential(nn.AvgPool2d(3), nn.Flatten())
    net = Joined(before, Conv2dMergeGrowingModule(pool), [LinearGrowingModule(12, 4)])
    return net, torch.randn(40, 2, 6, 6)


ALL = [*JOINS, normed_join]


def proposed(net, x, **kwargs):
    net.gather([x])
    net.merge.compute_optimal_updates(maximum_added_neurons=2, relative_thresholds=True, **kwargs)
    net.merge.set_scaling_factor(0.5)
    return net.merge.proposal()


@pytest.mark.parametrize("join", ALL)
def test_a_proposal_applied_to_a_copy_is_the_growth_it_was_taken_from(join):
    net, x = join()
    net.eval()
    proposal = proposed(net, x)
    expected = net.extended_forward(x)
    net.merge.delete_update()
    net.merge.reset_computation()
    twin = copy.deepcopy(net)
    twin.merge.load_proposal(proposal)
    twin.merge.apply_change()
    for ours, wanted in zip(twin(x), expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
    assert {module.out_neurons for module in net.before} == {3}


def test_new_channels_of_a_normalisation_before_a_merge_expect_what_they_will_see():
    net, x = normed_join()
    net.eval()
    proposed(net, x)
    net.merge.apply_change()
    norm = net.before[0].post_layer_function[0]
    new = net.before[0].layer(x)[:, 3:]
    torch.testing.assert_close(norm.running_mean[3:], new.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var[3:], new.var((0, 2, 3), unbiased=False), rtol=1e-3, atol=1e-4)
    in_train_mode = norm.train()(net.before[0].layer(x))[:, 3:]
    torch.testing.assert_close(in_train_mode, new, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("join", ALL)
def test_gradmax_through_a_merge_changes_nothing_yet_and_its_incoming_weights_get_a_gradient(join):
    net, x = join()
    net.eval()
    before = net(x)
    net.gather([x])
    net.merge.compute_gradmax_updates(maximum_added_neurons=2)
    net.merge.apply_change(1.0)
    for ours, wanted in zip(net(x), before, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=2e-2, atol=2e-2)
    net.zero_grad()
    loss(net(x)).backward()
    assert all(module.weight.grad[3:].abs().sum() > 0 for module in net.before)


@pytest.mark.parametrize("join", ALL)
def test_a_merge_grows_at_random_to_exactly_its_target(join):
    net, _ = join()
    net.merge.target_in_neurons = 8
    assert net.merge.number_of_neurons_to_add(number_of_growth_steps=2) == 2
    net.merge.complete_growth({})
    assert net.merge.missing_neurons() == 0
    assert all(module.weight[3:].flatten(1).abs().sum(1).all() for module in net.before)


@pytest.mark.parametrize("join", ALL)
def test_neurons_drawn_without_outgoing_weights_leave_the_function_unchanged(join):
    net, x = join()
    net.eval()
    before = net(x)
    net.merge.create_layer_extensions(2, input_extension_init="zeros")
    net.merge.apply_change(1.0)
    for ours, wanted in zip(net(x), before, strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("join", ALL)
def test_removing_silent_neurons_of_a_merge_leaves_the_function_unchanged(join):
    net, x = join()
    net.eval()
    with torch.no_grad():
        for reader in net.behind:
            columns = net.merge.columns_per_neuron(reader)
            reader.weight[:, columns : 2 * columns] = 0
    before = net(x)
    remove_neurons(net.merge, torch.tensor([True, False, True]))
    for ours, wanted in zip(net(x), before, strict=True):
        torch.testing.assert_close(ours, wanted)
    assert {module.out_neurons for module in net.before} == {2}


@pytest.mark.parametrize("kind", ["legacy_normalization", "equalize_second_layer", "equalize_extensions"])
def test_a_merge_between_two_layers_normalises_as_the_pair_does(kind):
    net, x = linear_join()
    single = Joined(net.before[:1], LinearMergeGrowingModule(), net.behind[:1])
    first = LinearGrowingModule(5, 3)
    second = LinearGrowingModule(3, 4, previous_module=first)
    first.load_state_dict(single.before[0].state_dict())
    second.load_state_dict(single.behind[0].state_dict())
    second.init_computation()
    loss([second(first(x))]).backward()
    second.update_computation()
    second.compute_optimal_updates(maximum_added_neurons=2)
    second.normalize_optimal_updates(normalization_type=kind)
    single.gather([x])
    single.merge.compute_optimal_updates(maximum_added_neurons=2)
    single.merge.normalize_optimal_updates(normalization_type=kind)
    ours, theirs = single.merge.proposal(), second.proposal()
    torch.testing.assert_close(ours.eigenvalues, theirs.eigenvalues)
    torch.testing.assert_close(ours.inputs[0].delta_weight, theirs.delta_weight)
    torch.testing.assert_close(
        ours.inputs[0].omega @ ours.outputs[0].weight,
        theirs.omega @ theirs.alpha_weight,
        rtol=1e-4,
        atol=1e-5,
    )
    assert ours.first_order_improvement == pytest.approx(theirs.first_order_improvement, rel=1e-5)


def test_proposals_and_modules_that_do_not_belong_together_are_refused():
    net, x = linear_join()
    with pytest.raises(ValueError, match=r"has no new neurons to propose"):
        net.merge.proposal()
    proposal = proposed(net, x)
    flat, _ = flat_join()
    with pytest.raises(ValueError, match=r"names 1 modules before and 1 behind it; got 2 and 2"):
        flat.merge.load_proposal(proposal)
    reader = LinearGrowingModule(3, 2, previous_module=LinearGrowingModule(4, 3))
    with pytest.raises(ValueError, match=r"takes a GrowthProposal; got MergeProposal"):
        reader.load_proposal(proposal)
    with pytest.raises(ValueError, match=r"functions need one slope at 0; got \[1, 0.25\]"):
        LinearMergeGrowingModule(
            previous_modules=[
                LinearGrowingModule(2, 3, post_layer_function=nn.ReLU()),
                LinearGrowingModule(2, 3, post_layer_function=nn.Sigmoid()),
            ]
        )
    empty = Conv2dMergeGrowingModule(
        nn.Flatten(), [RestrictedConv2dGrowingModule(2, 0, 3, padding=1)], [LinearGrowingModule(0, 2)]
    )
    with pytest.raises(ValueError, match=r"has no channels: how many positions a new one has"):
        empty.create_layer_extensions(1)


def test_pooling_before_the_sum_is_refused():
    first = RestrictedConv2dGrowingModule(2, 3, 3, padding=1, post_layer_function=nn.MaxPool2d(2))
    net = Joined([first], Conv2dMergeGrowingModule(nn.Flatten()), [LinearGrowingModule(27, 4)])
    with pytest.raises(ValueError, match=r"make 36 points and the sum has \(3, 3\): .* may not pool"):
        net.gather([torch.randn(5, 2, 6, 6)])
