import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from growcore.sparse import DSLinear
from growcore.sparse.allocation import allocate, erk_densities, random_mask
from growcore.sparse.regrowth import exchange, gradual_magnitude, hebbian_exchange, rigl, set_evolution
from growcore.sparse.schedule import SHAPES, Schedule

torch.set_num_threads(1)
sizes = st.integers(2, 40)


def layer_of(n, seed):
    generator = torch.Generator().manual_seed(seed)
    alive = torch.rand(n, generator=generator) < 0.5
    weight = torch.where(alive, torch.randn(n, generator=generator), 0)
    return weight, alive, torch.randint(0, 5, (n,), generator=generator).float()


def strongest(strengths, members, number):
    """By a literal sort: high strength first, then low index."""
    return set(sorted(members, key=lambda i: (-strengths[i].item(), i))[:number])


def members(mask):
    return set(mask.nonzero().flatten().tolist())


@given(n=sizes, fraction=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_one_to_one_exchange_drops_the_weakest_and_regrows_the_strongest_inactive(n, fraction, seed):
    _, alive, strengths = layer_of(n, seed)
    mask = hebbian_exchange(strengths, alive, fraction)
    living, dead = members(alive), members(~alive)
    number = min(math.floor(fraction * len(living) + 1e-9), len(dead))
    assert members(mask.keep) == strongest(strengths, living, len(living) - number)
    assert members(mask.restart) == strongest(strengths, dead, number)


@given(n=sizes, fraction=st.floats(0, 1), seed=st.integers(0, 99))
def test_every_exchange_keeps_the_number_of_connections(n, fraction, seed):
    weight, alive, gradient = layer_of(n, seed)
    masks = [
        set_evolution(weight, alive, fraction, torch.Generator().manual_seed(seed)),
        rigl(weight, alive, gradient, fraction),
        hebbian_exchange(gradient, alive, fraction),
    ]
    assert all(int(mask.alive.sum()) == int(alive.sum()) for mask in masks)


@given(n=sizes, fraction=st.floats(0, 1), seed=st.integers(0, 99))
def test_rigl_drops_small_weights_and_regrows_from_zero_by_gradient_among_all_that_are_off(n, fraction, seed):
    weight, alive, gradient = layer_of(n, seed)
    mask = rigl(weight, alive, gradient, fraction)
    living = members(alive)
    number = math.floor(fraction * len(living) + 1e-9)
    kept = strongest(weight.abs(), living, len(living) - number)
    assert members(mask.keep) == kept
    assert members(mask.restart) == strongest(gradient, set(range(n)) - kept, number)
    assert mask.restart_at_zero


def test_set_regrows_inactive_connections_at_random_and_repeats_with_its_generator():
    weight = torch.linspace(1, 2, 100)
    alive = torch.arange(100) < 50
    masks = [set_evolution(weight, alive, 0.3, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert members(masks[0].keep) == set(range(15, 50))
    assert masks[0].restart.equal(masks[1].restart)
    assert not masks[0].restart.equal(masks[2].restart)
    assert not (masks[0].restart & alive).any()


@given(n=sizes, density=st.floats(0, 1), seed=st.integers(0, 99))
def test_gradual_pruning_keeps_the_largest_weights_at_exactly_the_density(n, density, seed):
    weight, alive, _ = layer_of(n, seed)
    mask = gradual_magnitude(weight, alive, density)
    number = min(max(math.floor(density * n + 1e-9), 1), int(alive.sum()))
    assert members(mask.keep) == strongest(weight.abs(), members(alive), number)
    assert not mask.restart.any()


def test_a_layer_applies_what_a_rule_decides():
    torch.manual_seed(0)
    layer = DSLinear(20, 5)
    layer.start_sparse(random_mask((5, 20), 30, torch.Generator().manual_seed(0)))
    before = layer.weight.detach().clone()
    mask = rigl(layer.weight, layer.mask, torch.rand(5, 20), 0.4)
    progress = layer.apply_prune_mask(mask)
    assert (progress.kept, progress.reinitialised, progress.pruned) == (18, 12, 70)
    assert layer.weight[mask.keep].equal(before[mask.keep])
    assert (layer.weight[~mask.keep] == 0).all()
    assert 0.3 < progress.explored <= 0.42


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_fractions_out_of_range_and_other_shapes_are_refused(fraction):
    alive, weight = torch.ones(4, dtype=torch.bool), torch.ones(4)
    with pytest.raises(ValueError, match=rf"\[0, 1\]; got {fraction}"):
        hebbian_exchange(weight, alive, fraction)
    with pytest.raises(ValueError, match=rf"\[0, 1\]; got {fraction}"):
        gradual_magnitude(weight, alive, fraction)
    with pytest.raises(ValueError, match=r"bool tensor and strengths have its shape; got torch.bool"):
        exchange(alive, weight, torch.ones(5), 0.5)
    with pytest.raises(ValueError, match=r"must be finite to be ranked; got 4 of 4"):
        rigl(weight, alive, weight / 0, 0.5)


# Two layers worked by hand: raw densities (4+4)/16 = 1/2 and (8+8)/64 = 1/4; 40 of 80 connections at
# density 1/2 are eps (8 + 16): eps = 5/3, so 5/6 and 5/12.
def test_erk_densities_are_those_worked_by_hand():
    assert erk_densities([(4, 4), (8, 8)], 0.5) == pytest.approx([5 / 6, 5 / 12])


def test_erk_makes_a_layer_that_would_pass_one_dense_and_shares_the_rest():
    # At 0.8 the first would get 4/3; dense it takes 16 of 64 connections, the second gets 48 of its 64.
    assert erk_densities([(4, 4), (8, 8)], 0.8) == pytest.approx([1.0, 0.75])
    assert erk_densities([(4, 4), (8, 8)], 1.0) == [1.0, 1.0]


shapes = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 3]), st.sampled_from([1, 3])),
    min_size=1,
    max_size=5,
)


@given(shapes=shapes, density=st.floats(0.01, 1), method=st.sampled_from(["uniform", "erk"]))
def test_an_allocation_achieves_its_density_up_to_rounding(shapes, density, method):
    allocation = allocate(shapes, density, method)
    total = sum(math.prod(shape) for shape in shapes)
    # Rounding moves each layer by half a connection, or by one where it must keep one.
    assert abs(sum(allocation.num_alive) - density * total) <= len(shapes) + 1e-6
    assert all(0 < d <= 1 for d in allocation.densities)
    assert allocation.density == sum(allocation.num_alive) / total
    assert density == 1 or method == "erk" or max(allocation.num_alive) <= max(density * total + 0.5, 1)


def test_a_random_mask_has_exactly_the_asked_number_anywhere():
    masks = torch.stack([random_mask((3, 4), 5, torch.Generator().manual_seed(s)) for s in range(200)])
    assert (masks.flatten(1).sum(1) == 5).all()
    assert masks.any(0).all()
    with pytest.raises(ValueError, match=r"0 to 12 connections alive; got num_alive=13"):
        random_mask((3, 4), 13)


def test_allocations_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"density in \(0, 1\]; got 1 layers and density=0"):
        allocate([(2, 2)], 0)
    with pytest.raises(ValueError, match=r"Unknown allocation 'erdos'"):
        allocate([(2, 2)], 0.5, "erdos")


@pytest.mark.parametrize(
    ("shape", "halfway", "quarter"),
    [
        ("constant", 1.0, 1.0),
        ("linear", 0.6, 0.8),
        ("cubic", 0.2 + 0.8 / 8, 0.2 + 0.8 * 27 / 64),
        ("cosine", 0.6, 0.2 + 0.4 * (1 + math.cos(math.pi / 4))),
    ],
)
def test_a_schedule_runs_from_initial_to_final_between_start_and_stop(shape, halfway, quarter):
    schedule = Schedule(shape=shape, initial=1.0, final=0.2, start=10, stop=30)
    assert [schedule(t) for t in (0, 10, 30, 99)] == [1.0, 1.0, 0.2, 0.2]
    assert schedule(20) == pytest.approx(halfway)
    assert schedule(15) == pytest.approx(quarter)


@given(shape=st.sampled_from(SHAPES), a=st.floats(0, 1), b=st.floats(0, 1), times=st.lists(st.floats(0, 50)))
def test_schedules_are_monotone_and_stay_between_their_ends(shape, a, b, times):
    values = [Schedule(shape=shape, initial=a, final=b, start=5, stop=40)(t) for t in sorted(times)]
    assert all(min(a, b) - 1e-12 <= value <= max(a, b) + 1e-12 for value in values)
    steps = [(late - early) * (1 if b >= a else -1) for early, late in itertools.pairwise(values)]
    assert all(step >= -1e-12 for step in steps)


def test_schedules_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"start=3, stop=2"):
        Schedule(shape="linear", initial=1, final=0, start=3, stop=2)
    with pytest.raises(ValueError, match=r"Unknown schedule 'cubik'. Did you mean 'cubic'"):
        Schedule(shape="cubik", initial=1, final=0, start=0, stop=2)
