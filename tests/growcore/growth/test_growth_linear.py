import copy

import pytest
import torch
from growth_networks import chain, chain_extended, double_well, gather, linear_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from growcore.growth import GrowingModule, LinearGrowingModule


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@settings(max_examples=20, deadline=None)
@given(
    num_in=st.integers(1, 5), num_hidden=st.integers(1, 5), num_out=st.integers(1, 5),
    positions=st.integers(0, 3), use_bias=st.booleans(), previous_bias=st.booleans(),
)  # fmt: skip
def test_statistics_are_the_sums_of_outer_products_over_the_number_of_samples(
    num_in, num_hidden, num_out, positions, use_bias, previous_bias
):
    first, second = linear_pair((num_in, num_hidden, num_out), nn.Tanh(), use_bias, previous_bias)
    x = torch.randn(6, positions, num_in) if positions else torch.randn(6, num_in)
    gather([first, second], [second], [x])
    b_prev, b, g = x, second.input, second.pre_activity.grad
    S = C = M = M_prev = 0.0
    for index in range(x.shape[0]):
        for t in range(max(positions, 1)):
            at = (index, t) if positions else (index,)
            one = torch.cat([b[at], torch.ones(int(use_bias))])
            before = torch.cat([b_prev[at], torch.ones(int(previous_bias))])
            S, C = S + torch.outer(one, one) / 6, C + torch.outer(before, one) / 6
            M, M_prev = M + torch.outer(one, g[at]) / 6, M_prev + torch.outer(before, g[at]) / 6
    torch.testing.assert_close(second.tensor_s(), S)
    torch.testing.assert_close(second.tensor_m(), M)
    torch.testing.assert_close(second.tensor_m_prev(), M_prev)
    torch.testing.assert_close(second.cross_covariance(), C)
    assert second.tensor_s().shape == (num_hidden + use_bias,) * 2


def test_n_by_the_second_pass_is_n_by_the_cross_covariance():
    first, second = linear_pair(function=nn.ReLU())
    x = torch.randn(50, 5)
    gather([first, second], [second], [x])
    second.compute_optimal_delta()
    update, num_samples = second.compute_n_update()
    torch.testing.assert_close(update / num_samples, second.tensor_n, rtol=1e-4, atol=1e-5)


def test_predicted_decrease_of_identity_networks_is_the_realised_derivative():
    """The loss as a function of gamma^2 falls at the rate first_order_improvement."""
    first, second = linear_pair((5, 2, 4))
    first, second = first.double(), second.double()
    x = torch.randn(64, 5, dtype=torch.float64)
    gather([first, second], [second], [x])
    second.compute_optimal_updates(dtype=torch.float64)
    predicted = second.first_order_improvement.item()
    second.set_scaling_factor(1e-4)
    before = double_well(chain([first, second], x)).item() / 64
    after = double_well(chain_extended([first, second], x)).item() / 64
    assert (before - after) / 1e-8 == pytest.approx(predicted, rel=1e-5)


def test_the_optimum_beats_random_directions_of_the_same_functional_norm():
    first, second = linear_pair((5, 2, 4))
    x = torch.randn(200, 5)
    gather([first, second], [second], [x])
    second.compute_optimal_delta()
    alpha, bias, omega, values = second.compute_optimal_added_parameters(maximum_added_neurons=2)
    N, S = second.tensor_n, second.tensor_s_growth()

    def gain(product):
        norm = torch.trace(product @ S @ product.T).sqrt()
        return (torch.trace(product @ N) / norm).item()

    best = gain(omega @ torch.cat([alpha, bias[:, None]], dim=1))
    assert best == pytest.approx(values.square().sum().sqrt().item(), rel=1e-4)
    for _ in range(100):
        assert gain(torch.randn(4, 2) @ torch.randn(2, 6)) < best


@pytest.mark.parametrize("function", [nn.Identity(), nn.ReLU(inplace=True), nn.Tanh(), nn.Dropout(0.5)])
@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_apply_change_bakes_in_exactly_the_extended_forward(function, gamma):
    first, second = linear_pair((8, 4, 3), function)
    modules = [first.eval(), second.eval()]
    x = torch.randn(30, 8)
    gather(modules, [second], [x])
    second.compute_optimal_updates(maximum_added_neurons=2)
    second.set_scaling_factor(gamma)
    before, extended = chain(modules, x), chain_extended(modules, x)
    second.apply_change()
    second.delete_update()
    second.reset_computation()
    torch.testing.assert_close(chain(modules, x), extended)
    if gamma == 0:
        torch.testing.assert_close(extended, before)
    assert (first.out_features, second.in_features) == (6, 6)
    assert chain_extended(modules, x).shape == (30, 3)


def test_old_entries_come_first_and_parameters_are_new_objects():
    first, second = linear_pair()
    old = dict(nn.Sequential(first, second).named_parameters())
    values = {name: p.detach().clone() for name, p in old.items()}
    second.create_layer_extensions(3)
    second.apply_change(scaling_factor=1.0)
    new = dict(nn.Sequential(first, second).named_parameters())
    assert new.keys() == old.keys() == {"0.layer.weight", "0.layer.bias", "1.layer.weight", "1.layer.bias"}
    torch.testing.assert_close(new["0.layer.weight"][:4].detach(), values["0.layer.weight"])
    torch.testing.assert_close(new["1.layer.weight"][:, :4].detach(), values["1.layer.weight"])
    assert new["0.layer.weight"] is not old["0.layer.weight"]
    assert new["1.layer.bias"] is old["1.layer.bias"]


def test_several_growths_of_one_layer_follow_one_another():
    first, second = linear_pair(function=nn.ReLU())
    modules, x = [first, second], torch.randn(40, 5)
    for num_hidden in (5, 6, 7):
        gather(modules, [second], [x])
        second.compute_optimal_updates(maximum_added_neurons=1)
        second.set_scaling_factor(0.1)
        expected = chain_extended(modules, x)
        second.apply_change()
        second.delete_update()
        second.reset_computation()
        torch.testing.assert_close(chain(modules, x), expected)
        assert second.in_features == num_hidden


def three_layers() -> list[LinearGrowingModule]:
    a = LinearGrowingModule(5, 4, post_layer_function=nn.ReLU())
    b = LinearGrowingModule(4, 6, post_layer_function=nn.ReLU(), previous_module=a, allow_growing=True)
    c = LinearGrowingModule(6, 2, previous_module=b, allow_growing=True)
    return [a, b, c]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_proposals_made_together_apply_one_after_another_in_any_order(order):
    modules = three_layers()
    x = torch.randn(40, 5)
    gather(modules, modules[1:], [x, x + 1])
    for module in modules[1:]:
        module.compute_optimal_updates(maximum_added_neurons=2)
        module.set_scaling_factor(0.5)
    expected = chain_extended(modules, x)
    proposals = {index: modules[index].proposal() for index in order}
    for module in modules[1:]:
        module.delete_update()
        module.reset_computation()
    for index in order:
        modules[index].load_proposal(proposals[index])
        modules[index].apply_change()
        modules[index].delete_update()
    torch.testing.assert_close(chain(modules, x), expected)


def test_neighbours_may_stop_gathering_in_any_order():
    modules = three_layers()
    gather(modules, modules[1:], [torch.randn(40, 5)])
    modules[2].compute_optimal_updates()
    modules[2].reset_computation()
    modules[1].compute_optimal_updates()
    modules[1].reset_computation()
    assert all(m.gathered.stored_input is None and m.gathered.stored_pre_activity is None for m in modules)
    assert all(not s.samples for m in modules for s in m.statistics())


def test_a_proposal_survives_the_change_it_describes():
    first, second = linear_pair((8, 4, 3))
    gather([first, second], [second], [torch.randn(40, 8)])
    second.compute_optimal_updates(maximum_added_neurons=2)
    proposal = second.proposal()
    assert proposal.num_neurons == 2
    assert proposal.first_order_improvement == pytest.approx(
        proposal.parameter_update_decrease + proposal.eigenvalues.square().sum().item()
    )
    kept = proposal.alpha_weight.clone()
    second.normalize_optimal_updates()
    second.apply_change(scaling_factor=1.0)
    torch.testing.assert_close(proposal.alpha_weight, kept)


def test_a_proposal_for_other_layers_is_refused_and_changes_nothing():
    _, second = linear_pair((5, 4, 3))
    second.create_layer_extensions(2)
    proposal = second.proposal()
    one, two = linear_pair((5, 4, 2))
    with pytest.raises(ValueError, match=r"omega of a proposal must fit the layers, \(2, 2\); got \(3, 2\)"):
        two.load_proposal(proposal)
    assert one.extended_output_layer is None
    _, three = linear_pair((5, 4, 3), previous_bias=False)
    with pytest.raises(ValueError, match=r"alpha_bias of a proposal is there exactly if"):
        three.load_proposal(proposal)


def test_a_copy_shares_nothing_and_its_links_stay_inside():
    net = nn.Sequential(*three_layers())
    gather(list(net), list(net)[1:], [torch.randn(40, 5)])
    net[2].compute_optimal_updates()
    twin = copy.deepcopy(net)
    assert twin[1].previous_module is twin[0]
    assert twin[1].next_module is twin[2]
    ours = {p.data_ptr() for p in net.parameters()}
    assert not ours & {p.data_ptr() for p in twin.parameters()}
    twin[2].apply_change(scaling_factor=1.0)
    assert net[2].in_features == 6
    assert twin[1].tensor_s is not net[1].tensor_s
    assert twin[1].tensor_s._update_function.__self__ is twin[1]


def test_extensions_are_neither_saved_nor_trained():
    net = nn.Sequential(*linear_pair())
    names = set(net.state_dict())
    net[1].create_layer_extensions(2)
    assert set(net.state_dict()) == names
    assert len(list(net.parameters())) == 4
    net.double()
    assert net[1].extended_input_layer.weight.dtype == torch.float64
    assert chain_extended(list(net), torch.randn(2, 5, dtype=torch.float64)).dtype == torch.float64


def test_forward_keeps_nothing_when_no_statistics_are_gathered():
    first, second = linear_pair()
    chain([first, second], torch.randn(3, 5))
    assert first.gathered.stored_input is None
    assert second.gathered.stored_pre_activity is None


def test_a_function_that_works_in_place_does_not_spoil_the_gradient_of_the_pre_activation():
    def gradient(inplace):
        torch.manual_seed(1)
        a, b = linear_pair(function=nn.ReLU(inplace=inplace))
        c = LinearGrowingModule(3, 2, previous_module=b)
        b.post_layer_function = nn.ReLU(inplace=inplace)
        gather([a, b, c], [b], [torch.randn(20, 5)])
        return b.tensor_m()

    torch.testing.assert_close(gradient(True), gradient(False))


def test_update_without_a_pass_or_without_gradients_is_refused():
    first, second = linear_pair()
    with pytest.raises(ValueError, match=r"is not gathering statistics"):
        second.update_computation()
    second.init_computation()
    with pytest.raises(ValueError, match=r"has stored no input"):
        second.update_computation()
    with torch.no_grad():
        chain([first, second], torch.randn(3, 5))
    with pytest.raises(ValueError, match=r"ran under no_grad or was not followed by backward"):
        second.update_computation()
    with pytest.raises(ValueError, match=r"S of LinearGrowingModule has seen no sample"):
        second.compute_optimal_updates()


def test_a_batch_that_is_not_finite_is_refused_when_solving():
    first, second = linear_pair()
    gather([first, second], [second], [torch.full((3, 5), float("nan"))])
    with pytest.raises(ValueError, match=r"must be finite"):
        second.compute_optimal_updates()


def test_layers_that_do_not_fit_are_refused():
    wrong = LinearGrowingModule(5, 3)
    second = LinearGrowingModule(4, 2, previous_module=wrong, allow_growing=True)
    with pytest.raises(ValueError, match=r"of as many outputs as it has inputs \(4\); got .* of 3 outputs"):
        second.init_computation()
    with pytest.raises(ValueError, match=r"needs a growing module before it; got allow_growing=True"):
        GrowingModule(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"tensor_s_shape must be \(3, 3\)"):
        GrowingModule(nn.Linear(2, 2), tensor_s_shape=(2, 2), allow_growing=False)
    with pytest.raises(ValueError, match=r"at least one new neuron; got extension_size=-1"):
        linear_pair()[1].create_layer_extensions(-1)
    with pytest.raises(ValueError, match=r"gains input neurons from a growing module before it"):
        LinearGrowingModule(2, 2).create_layer_extensions(1)


def test_x_ext_and_the_input_extension_go_together():
    _, second = linear_pair()
    with pytest.raises(ValueError, match=r"x_ext and the input extension .* go together"):
        second.extended_forward(torch.randn(2, 4), torch.randn(2, 1))
    second.create_layer_extensions(1)
    with pytest.raises(ValueError, match=r"x_ext=None"):
        second.extended_forward(torch.randn(2, 4))
    output, _ = second.extended_forward(torch.randn(2, 4), use_extended_input=False)
    assert output.shape == (2, 3)


def test_an_update_computed_before_a_growth_is_refused_and_changes_nothing():
    first, second = linear_pair()
    gather([first, second], [second], [torch.randn(20, 5)])
    second.compute_optimal_updates()
    second.add_parameters(added_in_features=1)
    weight = second.weight.detach().clone()
    with pytest.raises(ValueError, match=r"computed for other sizes"):
        second.apply_change(scaling_factor=1.0)
    torch.testing.assert_close(second.weight.detach(), weight)


@pytest.mark.parametrize("kind", ["legacy_normalization", "equalize_second_layer", "equalize_extensions"])
def test_normalisation_scales_as_its_formula_says(kind):
    first, second = linear_pair((6, 5, 4))
    gather([first, second], [second], [torch.randn(50, 6)])
    second.compute_optimal_updates()
    old = second.proposal()
    s = second.weight.std().item()
    second.normalize_optimal_updates(normalization_type=kind)
    new = second.proposal()
    delta, omega, alpha = (t.std().item() for t in (old.delta_weight, old.omega, old.alpha_weight))
    scale_delta, scale_omega, scale_alpha = {
        "legacy_normalization": (s / delta, 1.0, s / omega),
        "equalize_second_layer": (s / delta, s / omega, omega / delta),
        "equalize_extensions": (s / omega * s / alpha, s / omega, s / alpha),
    }[kind]
    torch.testing.assert_close(new.delta_weight, old.delta_weight * scale_delta)
    torch.testing.assert_close(new.omega, old.omega * scale_omega)
    torch.testing.assert_close(new.alpha_weight, old.alpha_weight * scale_alpha)
    torch.testing.assert_close(new.alpha_bias, old.alpha_bias * scale_alpha)
    torch.testing.assert_close(new.eigenvalues, old.eigenvalues * (scale_omega * scale_alpha) ** 0.5)
    assert new.parameter_update_decrease == pytest.approx(old.parameter_update_decrease * scale_delta)


def test_unknown_names_are_refused():
    _, second = linear_pair()
    with pytest.raises(ValueError, match=r"Unknown normalization_type 'nope'"):
        second.normalize_optimal_updates(normalization_type="nope")
    with pytest.raises(ValueError, match=r"Unknown initialization 'nope'. Known: copy_uniform"):
        second.create_layer_extensions(1, input_extension_init="nope")
    with pytest.raises(ValueError, match=r"std_target must be positive; got -1"):
        second.normalize_optimal_updates(std_target=-1.0)


def test_copy_uniform_matches_the_deviation_of_its_reference():
    _, second = linear_pair()
    tensor, reference = torch.empty(20000), torch.randn(100) * 3
    second.copy_uniform_initialization(tensor, reference, 5)
    assert tensor.std().item() == pytest.approx(reference.std().item(), rel=0.03)
    assert tensor.abs().max() <= 3**0.5 * reference.std()
    second.copy_uniform_initialization(tensor, torch.zeros(4), 25)
    assert tensor.std().item() == pytest.approx(0.2, rel=0.03)


def test_selection_keeps_the_most_significant_neurons():
    first, second = linear_pair((6, 2, 5))
    gather([first, second], [second], [torch.randn(50, 6)])
    second.compute_optimal_updates()
    whole = second.proposal()
    second.sub_select_optimal_added_parameters(threshold=float(whole.eigenvalues[1]))
    two = second.proposal()
    torch.testing.assert_close(two.omega, whole.omega[:, :2])
    torch.testing.assert_close(two.alpha_weight, whole.alpha_weight[:2])
    torch.testing.assert_close(two.preactivation_mean, whole.preactivation_mean[:2])
    second.sub_select_optimal_added_parameters(1, zeros_if_not_enough=True, zeros_fan_out=True)
    one = second.proposal()
    assert not one.omega[:, 1].any()
    assert not one.alpha_weight[1].any()
    assert one.eigenvalues[1] == 0
    second.sub_select_optimal_added_parameters(0)
    assert second.extended_input_layer is None
    assert first.extended_output_layer is None
    with pytest.raises(ValueError, match=r"has no new neurons to select from"):
        second.sub_select_optimal_added_parameters(1)


def test_growth_is_planned_in_equal_steps_and_completed_to_exactly_the_target():
    first = LinearGrowingModule(5, 4, post_layer_function=nn.ReLU())
    second = LinearGrowingModule(4, 3, previous_module=first, target_in_features=11)
    assert second.number_of_neurons_to_add(number_of_growth_steps=2) == 3
    assert second.missing_neurons() == 7
    second.create_layer_extensions(3)
    second.apply_change(scaling_factor=1.0, extension_size=3)
    second.delete_update()
    assert second.number_of_neurons_to_add(number_of_growth_steps=2) == 3
    second.complete_growth({"output_extension_init": "copy_uniform"})
    assert second.missing_neurons() == 0
    assert first.out_features == second.in_features == 11
    assert first.weight.abs().sum(1).min() > 0
    assert second.weight.abs().sum(0).min() > 0
    with pytest.raises(ValueError, match=r"Unknown method 'double'"):
        second.number_of_neurons_to_add("double")
    with pytest.raises(ValueError, match=r"has no target width"):
        first.missing_neurons()


@pytest.mark.parametrize(
    ("function", "slope"),
    [(nn.Identity(), 1.0), (nn.ReLU(inplace=True), 1.0), (nn.Sigmoid(), 0.25), (nn.GELU(), 0.5),
     (nn.Sequential(nn.BatchNorm1d(4), nn.LeakyReLU(0.1)), 1.0),
     (nn.Sequential(nn.Tanh(), nn.Dropout()), 1.0)],
)  # fmt: skip
def test_activation_gradient_is_the_slope_at_zero_from_the_right(function, slope):
    _, second = linear_pair(function=function)
    assert second.activation_gradient.item() == pytest.approx(slope, abs=1e-6)


def test_batch_norm_starts_as_the_identity_on_new_channels():
    function = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())
    first, second = linear_pair(function=function, previous_bias=False)
    modules, x = [first, second], torch.randn(500, 5) * 2 + 1
    gather(modules, [second], [x])
    second.compute_optimal_updates(maximum_added_neurons=3)
    second.set_scaling_factor(0.5)
    first.eval()
    expected = chain_extended(modules, x)
    second.apply_change()
    torch.testing.assert_close(chain(modules, x), expected, rtol=1e-4, atol=1e-5)
    norm, new = first.post_layer_function[0], first.layer(x)[:, 4:]
    torch.testing.assert_close(norm.running_mean[4:], new.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var[4:], new.var(0, correction=0), rtol=1e-3, atol=1e-5)
    first.train()
    torch.testing.assert_close(first(x)[:, 4:], new.relu(), rtol=1e-3, atol=1e-4)
    assert norm.num_features == 7


def test_a_function_that_cannot_grow_is_refused_before_anything_changes():
    first, second = linear_pair(function=nn.PReLU(4))
    with pytest.raises(ValueError, match=r"PReLU keeps values per channel and is not known to"):
        second.create_layer_extensions(1)
    first.create_layer_out_extension(1)
    second.create_layer_in_extension(1)
    with pytest.raises(ValueError, match=r"PReLU keeps values per channel and is not known to"):
        second.apply_change(scaling_factor=1.0)
    assert (first.out_features, second.in_features) == (4, 4)


class MaskedLinear(nn.Linear):
    """A linear layer with a mask over its connections."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.register_buffer("mask", torch.ones_like(self.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight * self.mask, self.bias)

    def connections_grown(self) -> None:
        mask = torch.ones_like(self.weight)
        mask[: self.mask.shape[0], : self.mask.shape[1]] = self.mask
        self.mask = mask


def test_a_layer_with_state_per_connection_extends_it():
    first = LinearGrowingModule(5, 4, layer=MaskedLinear(5, 4))
    second = LinearGrowingModule(4, 3, layer=MaskedLinear(4, 3), previous_module=first)
    first.layer.mask[0, 0] = 0
    second.create_layer_extensions(2)
    second.apply_change(scaling_factor=1.0)
    assert first.layer.mask.shape == (6, 5)
    assert first.layer.mask[0, 0] == 0
    assert second.layer.mask.shape == (3, 6)
    with pytest.raises(ValueError, match=r"layer must have \(in, out, bias\) = \(2, 2, True\)"):
        LinearGrowingModule(2, 2, layer=nn.Linear(3, 2))


def test_pruned_connections_take_no_part_in_the_optimal_step():
    first = LinearGrowingModule(8, 4)
    second = LinearGrowingModule(4, 3, layer=MaskedLinear(4, 3), previous_module=first)
    second.layer.mask.copy_(torch.rand(3, 4) > 0.4)
    modules = [first.double(), second.double()]
    x = torch.randn(60, 8, dtype=torch.float64)
    gather(modules, [second], [x])
    second.compute_optimal_updates(dtype=torch.float64, maximum_added_neurons=2, use_projected_gradient=False)
    assert not second.optimal_delta_layer.weight[second.layer.mask == 0].any()
    second.set_scaling_factor(1e-4)
    slope = (double_well(chain(modules, x)) - double_well(chain_extended(modules, x))).item() / 60 / 1e-8
    assert slope == pytest.approx(second.first_order_improvement.item(), rel=1e-4)
    second.set_scaling_factor(0.5)
    expected = chain_extended(modules, x)
    second.apply_change()
    torch.testing.assert_close(chain(modules, x), expected)
    assert not second.layer.mask.all()


class Gain(nn.Module):
    """A user's own function with a value per channel."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain

    def grow(self, num_new: int) -> None:
        self.gain = nn.Parameter(torch.cat([self.gain.detach(), torch.ones(num_new)]))


def test_a_function_of_the_users_own_grows_by_its_method():
    first, second = linear_pair((8, 4, 3), nn.Sequential(Gain(4), nn.Tanh()))
    modules, x = [first, second], torch.randn(30, 8)
    gather(modules, [second], [x])
    second.compute_optimal_updates(maximum_added_neurons=2)
    second.set_scaling_factor(0.5)
    expected = chain_extended(modules, x)
    second.apply_change()
    torch.testing.assert_close(chain(modules, x), expected)
