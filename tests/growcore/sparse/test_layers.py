import copy
import math

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from growcore.sparse import DSConv2d, DSLinear, PruneMask
from growcore.sparse.momentum import hold_pruned_at_zero
from growcore.sparse.selection import rank_within_scopes
from growcore.sparse.strength import STRENGTHS, coactivation

torch.set_num_threads(1)

MAKE = {
    "conv": lambda **s: (DSConv2d(4, 6, 3, padding=1, **s), torch.randn(5, 4, 6, 6)),
    "grouped conv": lambda **s: (DSConv2d(4, 6, 3, padding=1, groups=2, **s), torch.randn(5, 4, 6, 6)),
    "linear": lambda **s: (DSLinear(12, 7, **s), torch.randn(5, 12)),
}
every_kind = pytest.mark.parametrize("kind", MAKE)


def make(kind, seed=0, **given):
    torch.manual_seed(seed)
    return MAKE[kind](**{"k1": 0.3, "k2": 0.5, "prune_dims": (0,), "update_interval": 1, **given})


def step(layer, x, optimizer):
    optimizer.zero_grad()
    layer(x).square().sum().backward()
    optimizer.step()


def zero_state(optimizer, layer, reset):
    for value in optimizer.state[layer.weight].values():
        if torch.is_tensor(value) and value.shape == reset.shape:
            value[reset] = 0


@every_kind
def test_an_unpruned_layer_computes_what_the_plain_layer_does_with_the_same_gradients(kind):
    layer, x = make(kind)
    plain = nn.Linear(12, 7) if kind == "linear" else nn.Conv2d(4, 6, 3, padding=1, groups=layer.groups)
    torch.manual_seed(0)
    plain.reset_parameters()
    assert layer.weight.equal(plain.weight)  # the same draws from the same seed
    layer(x).square().sum().backward()
    plain(x).square().sum().backward()
    assert layer(x).equal(plain(x))
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)


@every_kind
def test_a_layer_made_from_a_plain_one_has_copies_of_its_weights_and_draws_nothing(kind):
    plain = nn.Linear(12, 7).double().eval()
    build = DSLinear.from_linear
    if kind != "linear":
        plain = nn.Conv2d(4, 6, (3, 2), 2, 1, 1, 2, False, "circular").double().eval()
        build = DSConv2d.from_conv
    plain.weight.requires_grad_(False)
    before = torch.get_rng_state()
    layer = build(plain, k1=0.2, k2=0.4)
    assert torch.get_rng_state().equal(before)
    assert layer.weight.equal(plain.weight)
    assert layer.weight.data_ptr() != plain.weight.data_ptr()
    assert not layer.weight.requires_grad
    assert not layer.training
    assert (layer.bias is None) == (plain.bias is None)
    x = torch.randn(2, 12 if kind == "linear" else 4, *([] if kind == "linear" else [5, 5])).double()
    assert layer(x).equal(plain(x))
    assert layer.k2 == 0.4


@every_kind
def test_strength_accumulates_every_interval_of_training_forwards_and_never_in_evaluation(kind):
    layer, x = make(kind, update_interval=3)
    expected = torch.zeros_like(layer.weight)
    for forward in range(7):
        y = layer(x + forward)
        if forward % 3 == 0:
            expected += coactivation(layer.geometry, x + forward, y)
        layer.eval()(x)
        layer.train()
    assert layer.learning_iterations == 7
    torch.testing.assert_close(layer.connections_tensor, expected.detach(), rtol=0, atol=0)


@settings(max_examples=25, deadline=None)
@given(
    k=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    prune_dims=st.sampled_from([(), (0,)]),
    kind=st.sampled_from(list(MAKE)),
)
def test_density_after_a_progression_is_exactly_the_alive_share_of_each_scope(k, prune_dims, kind):
    layer, x = make(kind, k1=k[0], k2=k[1], prune_dims=prune_dims)
    layer._warned_of_small_scopes = True
    layer(x)
    n = layer.weight.numel() if prune_dims == () else layer.weight[0].numel()
    K1 = max(math.floor(k[0] * n + 1e-9), 1)
    K2 = max(math.floor(k[1] * n + 1e-9), K1)
    scopes = layer.weight.numel() // n
    progress = layer.progress_connections()
    assert (progress.kept, progress.reinitialised) == (K1 * scopes, (K2 - K1) * scopes)
    assert progress.kept + progress.reinitialised + progress.pruned == layer.weight.numel()
    assert progress.density == layer.density == K2 / n
    assert int((layer.weight != 0).sum()) == K2 * scopes


@every_kind
def test_a_progression_changes_weights_in_place_as_its_ranking_says(kind):
    layer, x = make(kind)
    layer(x)
    before, parameter = layer.weight.detach().clone(), layer.weight
    mask = rank_within_scopes(layer.connections_tensor.clone(), 0.3, 0.5, (0,))
    progress = layer.progress_connections()
    assert layer.weight is parameter
    assert layer.weight[mask.keep].equal(before[mask.keep])
    assert (layer.weight[mask.restart] != before[mask.restart]).all()
    assert (layer.weight[mask.prune] == 0).all()
    assert layer.mask.equal(mask.alive)
    assert progress.reset.equal(~mask.keep)
    assert (layer.connections_tensor == 0).all()


@every_kind
def test_a_pruned_connection_among_the_strongest_is_drawn_anew(kind):
    layer, _ = make(kind)
    layer.progress_connections()
    dead = ~layer.mask
    layer.connections_tensor.copy_(dead.float())  # now the dead ones are the strongest
    progress = layer.progress_connections()
    revived = dead & layer.mask
    assert revived.any()
    assert (layer.weight[revived] != 0).all()
    assert progress.reset[revived].all()
    assert progress.kept + progress.reinitialised + progress.pruned == dead.numel()


@every_kind
def test_a_proposal_changes_nothing_and_applying_it_is_the_progression(kind):
    layer, x = make(kind)
    layer(x)
    twin = copy.deepcopy(layer)
    state = copy.deepcopy(layer.state_dict())
    mask = layer.propose_progression()
    assert all(value.equal(state[name]) for name, value in layer.state_dict().items())
    layer.apply_prune_mask(mask, torch.Generator().manual_seed(3))
    twin.progress_connections(torch.Generator().manual_seed(3))
    assert layer.weight.equal(twin.weight)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True),
        lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.01),
    ],
    ids=["sgd", "nesterov", "adam", "adamw"],
)
@every_kind
def test_pruned_weights_stay_exactly_zero_through_optimizer_steps(kind, make_optimizer):
    layer, x = make(kind)
    optimizer = make_optimizer(layer.parameters())
    for _ in range(3):
        step(layer, x, optimizer)
    progress = layer.progress_connections()
    zero_state(optimizer, layer, progress.reset)
    alive = layer.weight.detach().clone()
    for _ in range(4):
        step(layer, x, optimizer)
        assert (layer.weight[~layer.mask] == 0).all()
        assert (layer.weight.grad[~layer.mask] == 0).all()
    assert (layer.weight[layer.mask] != alive[layer.mask]).all()


@every_kind
def test_momentum_left_in_the_optimizer_has_no_effect_on_the_output(kind):
    layer, x = make(kind)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    step(layer, x, optimizer)
    layer.progress_connections()
    step(layer, x, optimizer)
    assert (layer.weight[~layer.mask] != 0).any()  # the trap: the old momentum moves dead weights
    masked = copy.deepcopy(layer)
    with torch.no_grad():
        masked.weight[~masked.mask] = 0
    assert layer(x).equal(masked(x))
    layer.connections_tensor.copy_((~layer.mask).float())
    dead = ~layer.mask
    drifted = layer.weight.detach().clone()
    layer.progress_connections()
    assert (layer.weight[dead] != drifted[dead]).all()  # nor does it come back with a restart


@every_kind
def test_restarted_weights_are_drawn_as_the_layer_draws_its_own(kind):
    layer, _ = make(kind, k1=0.0, k2=1.0, prune_dims=())
    fan_in = layer.weight[0].numel()
    draws, generator = [], torch.Generator().manual_seed(0)
    for _ in range(30):
        layer.progress_connections(generator)
        draws.append(layer.weight.detach().flatten()[1:].clone())
    draws = torch.cat(draws)
    bound = 1 / math.sqrt(fan_in)
    assert draws.abs().max() <= bound
    assert draws.abs().max() > 0.98 * bound
    # A uniform variable has variance bound^2 / 3; its sample variance has relative error 0.9 / sqrt(n).
    assert abs(draws.var() * 3 / bound**2 - 1) < 5 * 0.9 / math.sqrt(draws.numel())


def constant_init(weight, generator=None):
    return weight.fill_(0.125)


@every_kind
def test_a_layer_with_an_initialisation_of_its_own_restarts_with_it(kind):
    layer, x = make(kind, weight_init=constant_init)
    assert (layer.weight == 0.125).all()
    layer.weight.data.fill_(1.0)
    layer(x)
    mask = layer.propose_progression()
    layer.apply_prune_mask(mask)
    assert (layer.weight[mask.restart] == 0.125).all()
    assert (layer.weight[mask.keep] == 1).all()


@every_kind
def test_connections_told_to_start_at_zero_do_and_are_alive(kind):
    layer, _ = make(kind)
    keep = torch.zeros_like(layer.mask)
    mask = PruneMask(keep=keep, restart=~keep, prune=keep, restart_at_zero=True)
    layer.apply_prune_mask(mask)
    assert (layer.weight == 0).all()
    assert layer.mask.all()


@every_kind
def test_survivors_are_the_restarted_that_keep_their_weight_at_the_next_progression(kind):
    layer, x = make(kind, k1=0.5, k2=1.0, prune_dims=())
    layer(x)
    first = layer.propose_progression()
    layer.apply_prune_mask(first)
    layer.connections_tensor.copy_(torch.rand_like(layer.weight))
    second = layer.propose_progression()
    progress = layer.apply_prune_mask(second)
    assert progress.survivors == int((first.restart & second.keep).sum()) > 0


@every_kind
def test_random_pruning_has_the_counts_of_a_progression_and_other_connections(kind):
    layer, x = make(kind)
    layer(x)
    twin = copy.deepcopy(layer)
    by_strength = layer.progress_connections()
    at_random = twin.prune_randomly(torch.Generator().manual_seed(1))
    assert (by_strength.kept, by_strength.pruned) == (at_random.kept, at_random.pruned)
    assert not twin.mask.equal(layer.mask)


@every_kind
def test_a_run_resumed_from_its_state_dict_is_bit_identical(kind):
    layer, x = make(kind, update_interval=2)
    for _ in range(3):
        layer(x)
    layer.progress_connections()
    layer(x)
    resumed, _ = make(kind, seed=5, update_interval=2)
    resumed.load_state_dict(layer.state_dict())
    for run in (layer, resumed):
        for _ in range(3):
            run(x)
    assert resumed.learning_iterations == layer.learning_iterations == 7
    progressions = [run.progress_connections(torch.Generator().manual_seed(1)) for run in (layer, resumed)]
    assert progressions[0].survivors == progressions[1].survivors
    assert all(value.equal(resumed.state_dict()[name]) for name, value in layer.state_dict().items())


@every_kind
def test_a_checkpoint_loads_without_pickle(kind, tmp_path):
    layer, x = make(kind)
    layer(x)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    state = torch.load(tmp_path / "layer.pt", weights_only=True)
    assert all(torch.is_tensor(value) for value in state.values())
    make(kind, seed=1)[0].load_state_dict(state)


@every_kind
def test_a_deepcopy_shares_nothing(kind):
    layer, x = make(kind)
    twin = copy.deepcopy(layer)
    layer(x)
    layer.progress_connections()
    assert twin.mask.all()
    assert (twin.connections_tensor == 0).all()
    assert twin.learning_iterations == 0


@every_kind
def test_a_compiled_layer_equals_the_eager_one_and_measures_alike_in_one_graph(kind):
    layer, x = make(kind, update_interval=2)
    layer.progress_connections()
    twin = copy.deepcopy(layer)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(twin, backend=backend, fullgraph=True)
    for _ in range(4):
        assert compiled(x).equal(layer(x))
    assert twin.connections_tensor.equal(layer.connections_tensor)
    assert twin.learning_iterations == 4
    assert len(graphs) == 1
    compiled(x).sum().backward()
    assert (twin.weight.grad[~twin.mask] == 0).all()


@every_kind
def test_autocast_trains_a_pruned_layer_and_keeps_strengths_in_float32(kind):
    layer, x = make(kind)
    layer.progress_connections()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert (layer.weight.grad[~layer.mask] == 0).all()
    assert layer.connections_tensor.dtype == torch.float32
    torch.testing.assert_close(layer.connections_tensor, coactivation(layer.geometry, x, y))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@every_kind
def test_the_mask_moves_with_the_layer_and_strengths_stay_at_least_float32(kind, dtype):
    layer, x = make(kind)
    layer.progress_connections()
    mask = layer.mask.clone()
    layer.to(dtype)(x.to(dtype)).sum().backward()
    assert layer.mask.equal(mask)
    assert layer.connections_tensor.dtype == torch.promote_types(dtype, torch.float32)
    assert (layer.progress_connections().reset.device.type, layer.weight.dtype) == ("cpu", dtype)


def test_a_grown_layer_keeps_its_mask_and_its_new_connections_are_alive():
    layer, x = make("conv")
    layer(x)
    layer.progress_connections()
    layer(x)
    mask, strengths = layer.mask.clone(), layer.connections_tensor.clone()
    grown = torch.randn(8, 7, 3, 3)
    grown[:6, :4] = layer.weight.detach() + 1.0  # growth moves every old weight, dead ones too
    layer.weight = nn.Parameter(grown)
    layer.bias = nn.Parameter(torch.randn(8))
    layer.in_channels, layer.out_channels = 7, 8
    layer.connections_grown()
    assert layer.mask[:6, :4].equal(mask)
    assert layer.mask[6:].all()
    assert layer.mask[:, 4:].all()
    assert layer.connections_tensor[:6, :4].equal(strengths)
    assert (layer.connections_tensor[6:] == 0).all()
    assert (layer.weight[~layer.mask] == 0).all()
    layer(torch.randn(5, 7, 6, 6)).sum().backward()
    assert layer.progress_connections().pruned == 8 * (63 - 31)


def test_a_layer_that_shrank_is_refused():
    layer, _ = make("linear")
    layer.weight = nn.Parameter(torch.randn(6, 12))
    with pytest.raises(ValueError, match=r"it went from \(7, 12\) to \(6, 12\)"):
        layer.connections_grown()


def test_a_sparse_start_counts_what_is_explored_from_there():
    layer, _ = make("linear", prune_dims=())
    alive = torch.zeros(7, 12, dtype=torch.bool)
    alive[:, :3] = True
    layer.start_sparse(alive)
    assert layer.density == 0.25
    assert (layer.weight[~alive] == 0).all()
    layer.connections_tensor[:, 3:6] = 1.0
    progress = layer.progress_connections()
    assert progress.explored == int((alive | layer.mask).sum()) / 84
    assert 0.25 < progress.explored < 1
    with pytest.raises(ValueError, match=r"bool tensor of shape \(7, 12\); got torch.float32"):
        layer.start_sparse(alive.float())


def test_a_mask_of_another_shape_is_refused_and_changes_nothing():
    layer, _ = make("linear")
    before = copy.deepcopy(layer.state_dict())
    dead = torch.zeros(7, 13, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"weight \(7, 12\); got \(7, 13\)"):
        layer.apply_prune_mask(PruneMask(keep=dead, restart=dead, prune=~dead))
    layer.k1 = 0.9
    with pytest.raises(ValueError, match=r"k1=0.9, k2=0.5"):
        layer.progress_connections()
    assert all(value.equal(before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k1": 0.7, "k2": 0.5}, r"k1=0.7, k2=0.5"),
        ({"update_interval": 0}, r"at least 1; got update_interval=0"),
        ({"activity_threshold": 1.0}, r"activity_threshold=1.0"),
        ({"prune_dims": (5,)}, r"prune_dims=\(5,\)"),
        ({"strength": "hebb"}, r"Unknown strength 'hebb'"),
    ],
)
@every_kind
def test_settings_out_of_range_are_refused(kind, given, message):
    with pytest.raises(ValueError, match=message):
        make(kind, **given)


def test_scopes_too_small_for_their_fractions_warn_once():
    layer = DSConv2d(2, 2, 3)  # 9 connections a filter: 0.1 and 0.15 of them are both 1
    with pytest.warns(UserWarning, match=r"k1=0.1 and k2=0.15 both keep 1 of the 9"):
        layer.progress_connections()
    layer.progress_connections()  # warnings are errors here
    assert DSConv2d(2, 2, 5).progress_connections().reinitialised == 4


@every_kind
def test_an_optimizer_held_to_the_mask_leaves_pruned_weights_and_momentum_at_zero(kind):
    layer, x = make(kind)
    model = nn.Sequential(layer)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    handle = hold_pruned_at_zero(optimizer, model)
    step(layer, x, optimizer)
    layer.progress_connections()
    step(layer, x, optimizer)
    dead = ~layer.mask
    assert (layer.weight[dead] == 0).all()
    assert (optimizer.state[layer.weight]["momentum_buffer"][dead] == 0).all()
    assert (optimizer.state[layer.weight]["momentum_buffer"][~dead] != 0).any()
    handle.remove()
    layer.progress_connections()
    step(layer, x, optimizer)
    assert (layer.weight[~layer.mask] != 0).any()


@pytest.mark.parametrize("strength", STRENGTHS)
@every_kind
def test_every_strength_trains_prunes_and_repeats_with_its_generator(kind, strength):
    layer, x = make(kind, strength=strength, update_interval=2)
    optimizer = torch.optim.SGD(layer.parameters(), 0.01)
    for _ in range(4):
        step(layer, x + torch.randn_like(x), optimizer)
    assert layer.learning_iterations == 4
    assert (layer.connections_tensor != 0).any() == (STRENGTHS[strength].measure is not None)
    twin = copy.deepcopy(layer)
    masks = [run.propose_progression(torch.Generator().manual_seed(2)) for run in (layer, twin)]
    assert masks[0].keep.equal(masks[1].keep)
    ranked = layer.strengths(torch.Generator().manual_seed(2))
    assert masks[0].keep.equal(rank_within_scopes(ranked, 0.3, 0.5, (0,)).keep)


@every_kind
def test_gradient_strength_is_that_of_the_dense_weight_although_the_layer_is_pruned(kind):
    layer, x = make(kind, strength="gradient")
    layer.start_sparse(torch.rand(layer.weight.shape) < 0.5)
    dense = copy.deepcopy(layer)
    dense.mask.fill_(True)  # the same function: its pruned weights are zero
    for run in (layer, dense):
        run(x).square().sum().backward()
    assert (layer.weight.grad[~layer.mask] == 0).all()
    assert (layer.connections_tensor[~layer.mask] > 0).any()
    torch.testing.assert_close(layer.connections_tensor, dense.weight.grad.abs(), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        layer(x)
    assert layer.learning_iterations == 1


def test_strengths_read_from_the_weights_cannot_be_measured_on_a_batch():
    layer, x = make("linear", strength="magnitude")
    with pytest.raises(ValueError, match=r"strength='magnitude' is not measured on batches"):
        layer.update_connections_tensor(x, layer(x))


def train_one_rank(rank, path, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.manual_seed(0)
    layer = DSLinear(12, 7, k1=0.3, k2=0.5, update_interval=2)
    model = nn.parallel.DistributedDataParallel(layer)
    x = torch.randn(8, 12, generator=torch.Generator().manual_seed(9))
    torch.manual_seed(rank)  # as dropout would be seeded
    for _ in range(3):
        model(x[rank::2]).square().sum().backward()
    strengths = layer.connections_tensor.clone()
    layer.progress_connections()
    torch.save([strengths, layer.weight.detach(), layer.mask], f"{results}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_add_their_strengths_and_draw_the_same_weights(tmp_path):
    torch.multiprocessing.spawn(train_one_rank, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert all(a.equal(b) for a, b in zip(*ranks, strict=True))
    torch.manual_seed(0)
    layer = DSLinear(12, 7, update_interval=2)
    x = torch.randn(8, 12, generator=torch.Generator().manual_seed(9))
    for _ in range(3):
        layer(x)  # both halves at once
    torch.testing.assert_close(ranks[0][0], layer.connections_tensor)
