"""No ranking and no exchange leaves a unit without a connection, as far as there are that many."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from growcore.sparse import Units, bare_units, rank_globally, rank_within_scopes
from growcore.sparse.allocation import random_mask
from growcore.sparse.regrowth import gradual_magnitude, hebbian_exchange, rigl, set_evolution
from growcore.sparse.selection import scope_counts, scope_size

torch.set_num_threads(1)
SHAPES = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3)),
)
fractions = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)
seeds = st.integers(0, 99)


def drawn(shape, seed, *, ties=True):
    generator = torch.Generator().manual_seed(seed)
    if ties:
        return torch.randint(0, 4, shape, generator=generator).float()
    return torch.rand(shape, generator=generator)


def bare_by_loop(alive, groups=1, read=True):
    """Units without a connection, counted one by one."""
    outputs, inputs = alive.shape[0], alive.shape[1]
    bare = sum(not alive[o].any() for o in range(outputs))
    if not read:
        return bare
    per_group = outputs // groups
    readers = [alive[g * per_group : (g + 1) * per_group, i] for g in range(groups) for i in range(inputs)]
    return bare + sum(not reader.any() for reader in readers)


def enough(shape, number):
    return number >= shape[0] + shape[1] - 1


@given(shape=SHAPES, k=fractions, seed=seeds, read=st.booleans())
def test_ranked_within_a_layer_every_unit_keeps_a_connection_and_counts_are_exact(shape, k, seed, read):
    strengths = drawn(shape, seed)
    mask = rank_within_scopes(strengths, *k, (), Units(read=read))
    K1, K2 = scope_counts(strengths.numel(), *k)
    assert (int(mask.keep.sum()), int(mask.alive.sum())) == (K1, K2)
    bare = bare_by_loop(mask.alive, read=read)
    assert bare == bare_units(mask.alive, Units(read=read))
    if enough(shape, K2):
        assert bare == 0
    if read:  # the fewest that any choice of K2 connections can leave
        short, long = sorted(shape[:2])
        best = max(short + long - 2 * K2, long - K2, 0) if short > K2 else max(long - K2, 0)
        assert bare == best or enough(shape, K2)
    assert mask.keep.equal(rank_within_scopes(strengths.clone(), *k, (), Units(read=read)).keep)


@given(shape=SHAPES, k=fractions, seed=seeds)
def test_no_more_is_swapped_than_units_would_be_bare_and_each_gets_its_strongest(shape, k, seed):
    strengths = drawn(shape, seed, ties=False)
    mask = rank_within_scopes(strengths, *k, ())
    number = int(mask.alive.sum())
    if not enough(shape, number):
        return
    plain = strengths >= strengths.flatten().sort(descending=True).values[number - 1]
    assert int((mask.alive & ~plain).sum()) <= bare_units(plain)
    for output in range(shape[0]):
        assert mask.alive[output].flatten()[strengths[output].argmax()]


@given(shape=SHAPES, k=fractions, seed=seeds, dims=st.sampled_from([(0,), (1,), (0, 1)]))
def test_ranked_within_channels_or_filters_units_keep_connections_and_scopes_their_counts(
    shape, k, seed, dims
):
    strengths = drawn(shape, seed)
    mask = rank_within_scopes(strengths, *k, dims)
    K1, K2 = scope_counts(scope_size(shape, dims), *k)
    others = [d for d in range(len(shape)) if d not in dims]
    for found, expected in ((mask.keep, K1), (mask.alive, K2)):
        assert ((found.sum(others) if others else found.int()) == expected).all()
    if dims == (0, 1) or (dims == (0,) and shape[1] <= K2) or (dims == (1,) and shape[0] <= K2):
        assert bare_by_loop(mask.alive) == 0
    if dims == (0,) and K2 * shape[0] >= shape[1]:
        assert bare_by_loop(mask.alive) == 0


@given(shapes=st.lists(SHAPES, min_size=1, max_size=3), k=fractions, seed=seeds)
def test_ranked_over_all_layers_no_layer_is_cut(shapes, k, seed):
    strengths = [drawn(shape, seed + i) * 10**i for i, shape in enumerate(shapes)]
    masks = rank_globally(strengths, *k)
    K1, K2 = scope_counts(sum(s.numel() for s in strengths), *k)
    assert sum(int(mask.keep.sum()) for mask in masks) == K1
    assert sum(int(mask.alive.sum()) for mask in masks) == K2
    if sum(shape[0] + shape[1] - 1 for shape in shapes) <= K2:
        assert not any(bare_by_loop(mask.alive) for mask in masks)


@given(groups=st.integers(1, 3), out=st.integers(1, 3), width=st.integers(1, 4), k=fractions, seed=seeds)
def test_inputs_of_a_grouped_convolution_are_read_by_their_own_group(groups, out, width, k, seed):
    shape = (groups * out, width, 2, 2)
    units = Units(groups)
    mask = rank_within_scopes(drawn(shape, seed), *k, (), units)
    assert bare_units(mask.alive, units) == bare_by_loop(mask.alive, groups)
    if int(mask.alive.sum()) >= groups * (out + width - 1):
        assert bare_by_loop(mask.alive, groups) == 0


@given(shape=SHAPES, density=st.floats(0.1, 1), fraction=st.floats(0, 1), seed=seeds)
def test_exchanges_and_gradual_pruning_never_take_the_last_connection_of_a_unit(
    shape, density, fraction, seed
):
    number = max(round(density * math.prod(shape)), 1)
    alive = random_mask(shape, number, torch.Generator().manual_seed(seed))
    assert int(alive.sum()) == number
    weight = torch.where(alive, drawn(shape, seed, ties=False) + 0.1, 0)
    grow_by = drawn(shape, seed + 1)
    masks = [
        set_evolution(weight, alive, fraction, torch.Generator().manual_seed(seed)),
        rigl(weight, alive, grow_by, fraction),
        hebbian_exchange(grow_by, alive, fraction),
    ]
    for mask in masks:
        assert int(mask.alive.sum()) == number
    kept = min(int(mask.keep.sum()) for mask in masks)
    if enough(shape, number):
        assert bare_by_loop(alive) == 0
        if enough(shape, kept):
            assert not any(bare_by_loop(mask.alive) for mask in masks)
    left = gradual_magnitude(weight, alive, 0.5 * density)
    if enough(shape, int(left.alive.sum())) and bare_by_loop(alive) == 0:
        assert bare_by_loop(left.alive) == 0


def test_an_exchange_serves_first_what_has_no_connection():
    alive = torch.zeros(4, 5, dtype=torch.bool)
    alive[:2, :3] = True  # outputs 2 and 3, inputs 3 and 4 have none
    strengths = torch.arange(20.0).reshape(4, 5).flip(0, 1)
    assert bare_units(alive) == 4
    for mask in (hebbian_exchange(strengths, alive, 0.5), rigl(strengths, alive, strengths, 0.5)):
        assert int(mask.restart.sum()) == 3
        assert bare_units(mask.alive) <= 1
    mask = hebbian_exchange(strengths, alive, 0.7)
    assert bare_units(mask.alive) == 0


@pytest.mark.parametrize("read", [True, False])
def test_pixels_are_no_units(read):
    strengths = torch.arange(12.0).reshape(3, 4)
    mask = rank_within_scopes(strengths, 0.25, 0.25, (), Units(read=read))
    expected = {(0, 3), (1, 3), (2, 3)} if not read else None
    found = {tuple(index) for index in mask.alive.nonzero().tolist()}
    assert found == expected if expected else len({i for _, i in found}) == 3


def test_the_best_that_few_connections_can_do_is_found_by_trying_all():
    strengths = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    for number in range(1, 10):
        k = number / 9
        ours = bare_units(rank_within_scopes(strengths, k, k, ()).alive)
        best = 6
        for chosen in itertools.combinations(range(9), number):
            alive = torch.zeros(9, dtype=torch.bool)
            alive[list(chosen)] = True
            best = min(best, bare_units(alive.reshape(3, 3)))
        assert ours == best
