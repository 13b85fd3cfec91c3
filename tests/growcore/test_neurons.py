import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from growcore.edits.surgery import carry_optimizer
from growcore.growth import Conv2dMergeGrowingModule, LinearGrowingModule, RestrictedConv2dGrowingModule
from growcore.networks.neurons import (
    NeuronActivity,
    alive,
    check_active,
    neurons_to_keep,
    num_new_neurons,
    observe_activity,
    widen,
    widen_pair,
)
from growcore.sparse import DSConv2d

torch.set_num_threads(1)


def test_check_active_compares_with_a_number_a_tensor_or_a_range():
    x = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 3.0]])
    assert check_active(x, 1.0).tolist() == [[False, True, False], [True, True, False]]
    assert check_active(x, torch.tensor([0.0, 1.0, 3.0])).tolist() == [
        [True, True, False],
        [False, True, True],
    ]
    assert check_active(x, 1.0, "greater").tolist() == [[False, False, True], [False, False, True]]
    assert check_active(x, torch.tensor([[0.5], [1.0]]), "greater").tolist() == [
        [False, True, True],
        [False, False, True],
    ]
    assert check_active(x, (0.5, 2.0), "between").tolist() == [[False, True, True], [True, True, False]]
    bounds = (torch.tensor([0.0, 2.0, 3.0]), torch.tensor([0.0, 3.0, 3.0]))
    assert check_active(x, bounds, "between").tolist() == [[True, False, False], [False, False, True]]


@pytest.mark.parametrize(
    ("y", "relation", "message"),
    [
        (0.0, "geq", r"Unknown relation 'geq'"),
        (0.0, "between", r"relation='between' and y of type float"),
        ((0.0, 1.0), "greater", r"relation='greater' and y of type tuple"),
    ],
)
def test_relations_that_do_not_fit_their_value_are_refused(y, relation, message):
    with pytest.raises(ValueError, match=message):
        check_active(torch.zeros(2), y, relation)


@given(batches=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 99))
@pytest.mark.parametrize(("y", "relation"), [(0.3, "greater"), ((-0.5, 0.5), "between")])
def test_frequencies_over_batches_are_those_of_all_data_at_once(y, relation, batches, seed):
    generator = torch.Generator().manual_seed(seed)
    data = [torch.randn(n, 4, 3, 2, generator=generator) for n in batches]
    activity = NeuronActivity(y, relation)
    for batch in data:
        activity.update(batch)
    whole = check_active(torch.cat(data), y, relation).double().mean((0, 2, 3))
    torch.testing.assert_close(activity.frequencies(), whole)


def test_a_neuron_is_dead_if_it_is_active_nowhere_in_the_data():
    x = torch.randn(10, 3)
    x[:, 1] = -x[:, 1].abs()
    x[:, 2] = torch.linspace(-9, 1, 10)
    assert alive(x).tolist() == [True, True, True]  # what is below 0 is missed as well
    assert alive(x.relu()).tolist() == [True, False, True]
    assert alive([x[:5].relu(), x[5:].relu()]).tolist() == [True, False, True]
    assert alive(x, relation="greater").tolist() == [True, False, True]
    assert alive(x, relation="greater", min_frequency=0.1).tolist() == [True, False, False]
    assert alive(x, torch.tensor([9.0, -9.0, 0.0]), "greater").tolist() == [False, True, True]
    activity = NeuronActivity()
    activity.update(x.relu())
    assert activity.dead_fraction() == pytest.approx(1 / 3)


def test_counts_are_exact_for_half_precision():
    x = torch.ones(300, 2, 40, 40, dtype=torch.bfloat16)
    x[0, 0, 0, 0] = 0
    activity = NeuronActivity()
    activity.update(x)
    assert activity.num_active.tolist() == [479_999, 480_000]


def test_activations_that_are_not_a_layers_are_refused_and_leave_the_counts():
    activity = NeuronActivity()
    with pytest.raises(ValueError, match=r"no activations were counted"):
        activity.frequencies()
    activity.update(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"it had 3, now 4"):
        activity.update(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        activity.update(torch.ones(3))
    assert activity.num_seen == 2
    activity.reset()
    activity.update(torch.ones(2, 4))
    assert activity.alive().tolist() == [True] * 4


def test_observation_counts_every_so_many_training_forwards_and_ends_with_its_block():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    x = torch.randn(5, 3)
    with observe_activity({"hidden": model[1]}, interval=3) as activities:
        for _ in range(7):
            model(x)
            model.eval()(x)
            model.train()
    model(x)
    assert activities["hidden"].num_seen == 3 * 5
    torch.testing.assert_close(activities["hidden"].frequencies(), (model(x) > 0).double().mean(0))
    with pytest.raises(ValueError, match=r"at least 1; got interval=0"), observe_activity({}, interval=0):
        pass


@given(
    values=st.lists(st.integers(0, 4), min_size=1, max_size=9),
    threshold=st.integers(0, 4),
    max_removed=st.none() | st.integers(0, 9),
    min_left=st.integers(0, 9),
)
def test_the_weakest_neurons_go_within_the_bounds(values, threshold, max_removed, min_left):
    min_left = min(min_left, len(values))
    keep = neurons_to_keep(torch.tensor(values).float(), threshold, max_removed, min_left).tolist()
    weak = [v <= threshold for v in values]
    number = min(sum(weak), len(values) - min_left, len(values) if max_removed is None else max_removed)
    assert keep.count(False) == number
    removed = [(v, -i) for i, v in enumerate(values) if not keep[i]]
    stayed = [(v, -i) for i, v in enumerate(values) if keep[i]]
    assert not removed or not stayed or max(removed) < min(stayed)


def test_bounds_that_cannot_hold_are_refused():
    with pytest.raises(ValueError, match=r"min_left=3, max_removed=None for 2 neurons"):
        neurons_to_keep(torch.zeros(2), min_left=3)
    with pytest.raises(ValueError, match=r"max_removed=-1"):
        neurons_to_keep(torch.zeros(2), max_removed=-1)


def test_five_entries_widened_by_1_3_become_seven_with_the_old_ones_in_the_middle():
    x = torch.randn(5)
    wide = widen(x, 1.3)
    assert wide.shape == (7,)
    assert wide[1:6].equal(x)


@given(n=st.integers(2, 30), factor=st.floats(1, 3))
def test_widening_adds_an_even_number_half_before_and_half_after(n, factor):
    x = torch.randn(n)
    wide = widen(x, factor)
    num_new = wide.numel() - n
    assert num_new % 2 == 0
    assert 0 <= num_new - (round(n * factor) - n) <= 1
    assert num_new == num_new_neurons(n, factor)
    assert wide[num_new // 2 : num_new // 2 + n].equal(x)


def test_new_entries_have_mean_zero_and_the_deviation_of_the_old_whatever_their_mean():
    generator = torch.Generator().manual_seed(0)
    x = 50 + 3 * torch.randn(20_000, generator=generator)
    wide = widen(x, 2.0, generator)
    new = torch.cat([wide[:10_000], wide[-10_000:]])
    # Standard errors: sigma / sqrt(n) of the mean, sigma / sqrt(2 n) of the deviation; five of them allowed.
    assert abs(new.mean()) < 5 * 3 / math.sqrt(20_000)
    assert abs(new.std() - x.std()) < 5 * 3 / math.sqrt(40_000)


def test_gradients_reach_a_widened_leaf_and_what_it_was_made_from():
    # The experiment of the notebook: t = 5, z = 2 t; dz/dt = 2 reaches the leaf, the old entries alike.
    t = torch.tensor([5.0, 1.0, 2.0, 3.0, 4.0], requires_grad=True)
    wide = widen(t, 1.3)
    wide.retain_grad()
    (2 * wide).sum().backward()
    assert wide.grad.tolist() == [2.0] * 7
    assert t.grad.tolist() == [2.0] * 5


def test_widening_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"factor >= 1; got factor=0.5"):
        widen(torch.randn(4), 0.5)
    with pytest.raises(ValueError, match=r"at least 2 entries; got a tensor of shape \(1,\)"):
        widen(torch.randn(1), 3.0)
    with pytest.raises(ValueError, match=r"read the 4 neurons.*\(4, 3\) and \(2, 5\)"):
        widen_pair(torch.randn(4, 3), None, torch.randn(2, 5))


def linear_pair(bias):
    torch.manual_seed(0)
    return nn.Linear(3, 6, bias=bias), nn.Linear(6, 2), torch.randn(5, 3)


def conv_pair(bias):
    torch.manual_seed(0)
    return nn.Conv2d(2, 4, 3, bias=bias), nn.Conv2d(4, 3, 2), torch.randn(5, 2, 7, 7)


def flattened_pair(bias):
    torch.manual_seed(0)
    return nn.Conv2d(2, 4, 3, bias=bias), nn.Linear(4 * 9, 3), torch.randn(5, 2, 5, 5)


def run(pair, x, weight, bias, next_weight):
    first, second = pair
    hidden = first._conv_forward(x, weight, bias) if x.dim() == 4 else nn.functional.linear(x, weight, bias)
    hidden = torch.tanh(hidden)
    if isinstance(second, nn.Conv2d):
        return second._conv_forward(hidden, next_weight, second.bias)
    return nn.functional.linear(hidden.flatten(1), next_weight, second.bias)


@pytest.mark.parametrize("make", [linear_pair, conv_pair, flattened_pair])
@pytest.mark.parametrize("bias", [True, False])
def test_a_pair_widened_to_preserve_the_function_does_and_every_new_weight_has_a_gradient(make, bias):
    first, second, x = make(bias)
    before = run((first, second), x, first.weight, first.bias, second.weight)
    wide = widen_pair(first.weight, first.bias, second.weight, 1.6, preserve_function=True)
    weight, next_weight = (t.detach().requires_grad_() for t in (wide.weight, wide.next_weight))
    wide_bias = None if wide.bias is None else wide.bias.detach().requires_grad_()
    num_old = first.weight.shape[0]
    assert weight.shape[0] == num_old + wide.num_new == num_old + num_new_neurons(num_old, 1.6)
    assert weight[:num_old].equal(first.weight)
    after = run((first, second), x, weight, wide_bias, next_weight)
    torch.testing.assert_close(after, before)
    after.square().sum().backward()
    assert weight.grad.flatten(1).abs().sum(1).gt(0).all()
    assert next_weight.grad.abs().sum() > 0
    # The twins of a pair are driven apart: equal incoming weights, opposite gradients.
    new = weight.grad[num_old:]
    torch.testing.assert_close(new[: len(new) // 2], -new[len(new) // 2 :])


def test_a_widened_pair_blends_in_with_its_layers():
    torch.manual_seed(0)
    first, second = nn.Linear(200, 100), nn.Linear(100, 300)
    wide = widen_pair(first.weight, first.bias, second.weight, 2.0)
    assert wide.num_new == 100
    for new, old in (
        (wide.weight[100:], first.weight),
        (wide.next_weight[:, 100:], second.weight),
        (wide.bias[100:], first.bias),
    ):
        assert abs(new.std() / old.std() - 1) < 5 / math.sqrt(2 * new.numel())
    old_again = widen_pair(first.weight, first.bias, second.weight, 1.0)
    assert old_again.num_new == 0
    assert old_again.next_weight.equal(second.weight)


def pair_of(kind: str) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """A layer, the one that reads it, and an input."""
    if kind == "linear":
        return nn.Linear(4, 6), nn.Linear(6, 3), torch.randn(5, 4)
    if kind == "flattened":
        return nn.Conv2d(2, 6, 3, padding=1), nn.Linear(6 * 16, 3), torch.randn(5, 2, 4, 4)
    if kind == "sparse":
        return DSConv2d(2, 6, 3), DSConv2d(6, 3, 3), torch.randn(5, 2, 9, 9)
    after = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU())
    first = RestrictedConv2dGrowingModule(2, 6, kernel_size=3, padding=1, post_layer_function=after)
    second = RestrictedConv2dGrowingModule(6, 3, kernel_size=3, padding=1, previous_module=first)
    return first, second, torch.randn(5, 2, 9, 9)


def through(layer: nn.Module, neighbour: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = torch.tanh(layer(x))
    return neighbour(y.flatten(1) if isinstance(neighbour, nn.Linear) else y)


@pytest.mark.parametrize("kind", ["linear", "flattened", "sparse", "growing"])
@pytest.mark.parametrize("train", [True, False])
def test_a_layer_widened_with_its_neighbour_may_keep_the_function_and_every_weight_learns(kind, train):
    layer, neighbour, x = pair_of(kind)
    for module in (layer, neighbour):
        module.train(train)
    before = through(layer, neighbour, x)
    assert widen(layer, 1.5, neighbour=neighbour, preserve_function=True) == 4
    after = through(layer, neighbour, x)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    (after * torch.randn_like(after)).sum().backward()
    weight = layer.layer.weight if kind == "growing" else layer.weight
    assert weight.shape[0] == 10
    assert (weight.grad.flatten(1).abs().sum(1) > 0).all()
    reads = neighbour.layer.weight if kind == "growing" else neighbour.weight
    assert (reads.grad.abs().sum(0) > 0).all()


def test_a_widened_layer_changes_the_function_unless_it_is_told_not_to():
    layer, neighbour, x = pair_of("linear")
    before, old = through(layer, neighbour, x), layer.weight.clone()
    assert widen(layer, 1.5, neighbour=neighbour) == 4
    assert torch.equal(layer.weight[:6], old)
    assert (layer.out_features, neighbour.in_features) == (10, 10)
    assert not torch.allclose(through(layer, neighbour, x), before)


def test_pruned_connections_stay_pruned_and_new_ones_are_alive_when_a_layer_widens():
    layer, neighbour, _ = pair_of("sparse")
    layer.start_sparse(torch.rand(layer.weight.shape) < 0.5)
    mask = layer.mask.clone()
    widen(layer, 1.3, neighbour=neighbour)
    assert torch.equal(layer.mask[:6], mask)
    assert layer.mask[6:].all()
    assert neighbour.mask.shape == neighbour.weight.shape == (3, 8, 3, 3)


def test_an_optimizer_can_follow_a_widened_layer():
    layer, neighbour, x = pair_of("linear")
    model = nn.Sequential(layer, nn.Tanh(), neighbour)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(x).sum().backward()
    optimizer.step()
    before = dict(model.named_parameters())
    momentum = optimizer.state[layer.weight]["momentum_buffer"].clone()
    widen(layer, 1.3, neighbour=neighbour)
    carry_optimizer(optimizer, before, dict(model.named_parameters()))
    now = optimizer.state[layer.weight]["momentum_buffer"]
    assert torch.equal(now[:6], momentum)
    assert not now[6:].any()


@pytest.mark.parametrize(
    ("layer", "neighbour", "message"),
    [
        (nn.Linear(3, 4), None, r"got None. Call widen\(layer, factor, neighbour=next_layer\)"),
        (nn.ReLU(), nn.Linear(4, 2), r"got ReLU\(\)"),
        (nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 2, 3), r"an ungrouped linear or convolution layer"),
        (nn.Linear(3, 4), nn.Linear(6, 2), r"must read the 4 neurons of this one"),
        (
            LinearGrowingModule(3, 4, post_layer_function=nn.PReLU(4), allow_growing=False),
            nn.Linear(4, 2),
            r"PReLU keeps values per channel",
        ),
    ],
)
def test_layers_that_cannot_be_widened_together_are_refused_unchanged(layer, neighbour, message):
    before = {name: p.clone() for name, p in layer.named_parameters()}
    with pytest.raises(ValueError, match=message):
        widen(layer, 1.5, neighbour=neighbour)
    assert all(torch.equal(p, before[name]) for name, p in layer.named_parameters())


NORMS = {
    "batch": lambda n: nn.BatchNorm2d(n),
    "batch without affine map": lambda n: nn.BatchNorm2d(n, affine=False),
    "group": lambda n: nn.GroupNorm(2, n),
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("preserve", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_a_normalisation_between_two_layers_widens_along(norm, preserve, train):
    between = nn.Sequential(NORMS[norm](6), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(2, 6, 3), between, nn.Conv2d(6, 3, 3)).train(train)
    x = torch.randn(5, 2, 9, 9)
    before = model(x)
    assert widen(model[0], 1.5, neighbour=model[2], between=between, preserve_function=preserve) == 4
    after = model(x)
    assert after.shape == before.shape
    if preserve:
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    after.square().sum().backward()
    assert (model[0].weight.grad.flatten(1).abs().sum(1) > 0).all()


def test_a_layer_norm_between_linear_layers_and_a_batch_norm_alone_widen_along():
    model = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.LayerNorm(6), nn.Tanh()), nn.Linear(6, 3))
    x = torch.randn(5, 4)
    before = model(x)
    widen(model[0], 1.5, neighbour=model[2], between=model[1], preserve_function=True)
    torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-5)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    before = model(x)
    widen(model[0], 1.5, neighbour=model[2], between=model[1], preserve_function=True)
    torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-5)
    assert model[1].num_features == 10


@pytest.mark.parametrize("preserve", [True, False])
def test_what_a_merge_between_two_layers_does_widens_along(preserve):
    first = RestrictedConv2dGrowingModule(2, 6, kernel_size=3, padding=1)
    second = RestrictedConv2dGrowingModule(6, 3, kernel_size=3, padding=1)
    merge = Conv2dMergeGrowingModule(nn.Sequential(nn.BatchNorm2d(6), nn.ReLU()), [first], [second])
    x = torch.randn(5, 2, 9, 9)
    before = second(merge(first(x)))
    assert widen(first, 1.5, neighbour=second, preserve_function=preserve) == 4
    after = second(merge(first(x)))
    assert merge.post_merge_function[0].num_features == 10
    if preserve:
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (nn.LayerNorm(6), r"a LayerNorm is replaced .* Call widen\(..., between=nn.Sequential\(norm\)\)"),
        (nn.GroupNorm(2, 6), r"a GroupNorm is replaced"),
        (nn.PReLU(6), r"PReLU keeps values per channel"),
    ],
)
def test_what_cannot_widen_between_is_refused_before_anything_changes(between, message):
    layer, neighbour = nn.Linear(4, 6), nn.Linear(6, 3)
    with pytest.raises(ValueError, match=message):
        widen(layer, 1.5, neighbour=neighbour, between=between)
    assert (layer.out_features, neighbour.in_features) == (6, 6)
    assert layer.weight.shape == (6, 4)
