"""Statistics count every call of a layer that backward reaches, and refuse what cannot be told apart."""

import gc

import pytest
import torch
from growth_networks import chain, chain_extended, conv_pair, double_well, linear_pair
from torch import nn

from growcore.growth import LinearGrowingModule, LinearMergeGrowingModule
from growcore.growth.statistics.calls import Call

GAMMA = 1e-4
PAIRS = {
    "linear": lambda: (linear_pair((5, 4, 3), nn.Tanh()), torch.randn(30, 5)),
    "conv": lambda: (conv_pair((2, 3, 4), nn.Tanh()), torch.randn(6, 2, 6, 6)),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pair_of(name):
    modules, x = PAIRS[name]()
    return [module.double() for module in modules], x.double(), torch.randn_like(x.double())


def siamese(y, z):
    return double_well(y) + double_well(z) + (y - z).square().sum()


def solved(second):
    second.compute_optimal_updates(dtype=torch.float64, maximum_added_neurons=3)
    second.choose_signs()
    second.set_scaling_factor(GAMMA)


def statistics(second):
    return [statistic() for statistic in second.gathered.all()]


@pytest.mark.parametrize("name", PAIRS)
def test_a_shared_pair_predicts_what_it_realises(name):
    """Two inputs through the same weights: both calls count, and samples once."""
    modules, x, other = pair_of(name)
    second = modules[1]
    second.init_computation()
    siamese(chain(modules, x), chain(modules, other)).backward()
    second.update_computation()
    solved(second)
    with torch.no_grad():
        before = siamese(chain(modules, x), chain(modules, other))
        after = siamese(chain_extended(modules, x), chain_extended(modules, other))
    assert second.tensor_m.samples == len(x)
    realised = (before - after).item() / len(x) / GAMMA**2
    assert second.predicted_decrease == pytest.approx(realised, rel=5e-3)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("by_layers", [True, False])
def test_calls_belong_together_by_what_is_passed_on(name, by_layers):
    """In whatever order a shared pair is called, the statistics are the same."""
    (first, second), x, other = pair_of(name)
    found = []
    for swapped in (True, False):
        second.init_computation()
        if by_layers:
            hidden = [first(x), first(other)]
            y, z = [second(h) for h in (hidden if not swapped else hidden[::-1])]
        else:
            y, z = second(first(x)), second(first(other))
        (y, z) = (z, y) if by_layers and swapped else (y, z)
        siamese(y, z).backward()
        second.update_computation()
        found.append(statistics(second))
        second.reset_computation()
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("name", PAIRS)
def test_accumulated_passes_are_counted_as_one_by_one(name):
    modules, x, other = pair_of(name)
    second = modules[1]
    found = []
    for accumulate in (True, False):
        second.init_computation()
        for batch in (x, other):
            double_well(chain(modules, batch)).backward()
            if not accumulate:
                second.update_computation()
        second.update_computation()
        assert second.tensor_s_growth.samples == 2 * len(x)
        found.append(statistics(second))
        second.reset_computation()
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("name", PAIRS)
def test_statistics_updated_one_by_one_count_each_pass_once(name):
    modules, x, other = pair_of(name)
    second = modules[1]
    found = []
    for one_by_one in (True, False):
        second.init_computation()
        for batch in (x, other):
            double_well(chain(modules, batch)).backward()
            if one_by_one:
                for statistic in second.gathered.all():
                    statistic.update()
            else:
                second.update_computation()
        found.append(statistics(second))
        second.reset_computation()
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_a_second_update_without_a_pass_between_adds_nothing():
    (first, second), x, _ = pair_of("linear")
    second.init_computation()
    double_well(second(first(x))).backward()
    second.update_computation()
    second.update_computation()
    assert second.tensor_m.samples == len(x)


@pytest.mark.parametrize("under_no_grad", [True, False])
def test_passes_that_are_only_looked_at_do_not_count(under_no_grad):
    (first, second), x, other = pair_of("linear")
    second.init_computation()
    double_well(second(first(x))).backward()
    second.update_computation()
    alone = statistics(second)
    second.init_computation()
    with torch.set_grad_enabled(not under_no_grad):
        second(first(other))
    double_well(second(first(x))).backward()
    with torch.set_grad_enabled(not under_no_grad):
        second(first(other))
    second.update_computation()
    for one, two in zip(statistics(second), alone, strict=True):
        torch.testing.assert_close(one, two)


def test_several_backward_passes_over_one_graph_add_their_gradients():
    (first, second), x, _ = pair_of("linear")
    found = []
    for twice in (True, False):
        second.init_computation()
        y = second(first(x))
        if twice:
            double_well(y).backward(retain_graph=True)
            y.sum().backward()
        else:
            (double_well(y) + y.sum()).backward()
        second.update_computation()
        found.append(statistics(second))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_a_shared_merge_counts_both_calls():
    x, other = torch.randn(30, 5).double(), torch.randn(30, 5).double()
    before = [LinearGrowingModule(5, 3).double() for _ in range(2)]
    behind = LinearGrowingModule(3, 4).double()
    merge = LinearMergeGrowingModule(nn.Tanh(), before, [behind])

    def run(inputs):
        return behind(merge(before[0](inputs) + before[1](inputs)))

    def extended(inputs):
        outputs = [module.extended_forward(inputs) for module in before]
        return behind.extended_forward(
            *merge.extended_forward(sum(o[0] for o in outputs), sum(o[1] for o in outputs))
        )[0]

    merge.init_computation()
    siamese(run(x), run(other)).backward()
    merge.update_computation()
    merge.compute_optimal_updates(dtype=torch.float64, use_projected_gradient=False)
    merge.set_scaling_factor(GAMMA)
    with torch.no_grad():
        gained = siamese(run(x), run(other)) - siamese(extended(x), extended(other))
    assert merge.predicted_decrease == pytest.approx(gained.item() / len(x) / GAMMA**2, rel=5e-3)


def test_what_cannot_be_told_apart_is_refused():
    (first, second), x, other = pair_of("linear")
    second.init_computation()
    (double_well(second(first(x))) + double_well(second(first(other[:7])))).backward()
    with pytest.raises(ValueError, match=r"called 2 times in one pass, with \[7, 30\] samples"):
        second.update_computation()
    second.init_computation()
    second.reset_computation()
    second.init_computation()
    double_well(second(first(x) + first(other))).backward()
    with pytest.raises(ValueError, match=r"was called \[1\] times .* \[2\] times"):
        second.update_computation()
    second.reset_computation()
    second.init_computation()
    (double_well(second(first(x))) + double_well(second(first(other)))).backward()
    with pytest.raises(ValueError, match=r"was called 2 times .* goal of one call"):
        second.compute_m_update(desired_activation=torch.zeros(30, 3))


def test_graphs_that_are_not_used_are_let_go():
    first, second = linear_pair()
    x = torch.randn(17, 5)  # as many samples as in no other test
    second.init_computation()
    for _ in range(5):
        second(first(x))
    gc.collect()
    inputs = [call.x for call in gc.get_objects() if type(call) is Call and call.x.shape[0] == len(x)]
    assert len(inputs) == 2  # the last of each layer


def test_one_statistic_alone_needs_only_what_it_is_made_of():
    (first, second), x, _ = pair_of("conv")
    first.store_input = second.store_pre_activity = True
    double_well(second(first(x))).backward()
    second.tensor_m_prev.update()
    alone = second.tensor_m_prev()
    first.store_input = second.store_pre_activity = False
    second.init_computation()
    double_well(second(first(x))).backward()
    second.update_computation()
    torch.testing.assert_close(alone, second.tensor_m_prev())


@pytest.mark.parametrize("name", ["tensor_s", "tensor_m", "tensor_m_prev", "cross_covariance", "growth_mean"])
def test_each_statistic_alone_is_what_it_is_among_the_others(name):
    (first, second), x, _ = pair_of("linear")
    first.store_input = second.store_input = second.store_pre_activity = True
    double_well(second(first(x))).backward()
    getattr(second, name).update()
    alone = getattr(second, name)()
    second.init_computation()
    double_well(second(first(x))).backward()
    second.update_computation()
    torch.testing.assert_close(alone, getattr(second, name)())
