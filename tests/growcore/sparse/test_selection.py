import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from growcore.config import PruningScope
from growcore.sparse import Units, bare_units
from growcore.sparse.selection import (
    PRUNE_DIMS,
    PruneMask,
    rank_globally,
    rank_within_scopes,
    scope_counts,
    scope_size,
)

torch.set_num_threads(1)

fractions = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


def ranks_by_loop(strengths):
    """Rank of each entry of a flat list: how many are stronger, or equal with a lower index."""
    return [
        sum(t > s or (t == s and j < i) for j, t in enumerate(strengths)) for i, s in enumerate(strengths)
    ]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    k=fractions,
    prune_dims=st.sampled_from([(), (0,), (0, 1), (1, 0), (1,), (2, 3), (-1,)]),
    seed=st.integers(0, 99),
)
def test_each_scope_keeps_its_strongest_restarts_the_next_and_prunes_the_rest(shape, k, prune_dims, seed):
    # Few distinct values, so that ties are common.
    strengths = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(seed)).float()
    mask = rank_within_scopes(strengths, *k, prune_dims)
    n = scope_size(shape, prune_dims)
    K1 = max(math.floor(k[0] * n + 1e-9), 1)
    K2 = max(math.floor(k[1] * n + 1e-9), K1)
    scope_dims = {d % 4 for d in prune_dims}
    assert int(mask.keep.sum()) == K1 * (math.prod(shape) // n)  # the floor leaves counts as they are
    assert int(mask.alive.sum()) == K2 * (math.prod(shape) // n)
    scopes = {}
    for index in torch.cartesian_prod(*[torch.arange(size) for size in shape]).reshape(-1, 4).tolist():
        scopes.setdefault(tuple(index[d] for d in scope_dims), []).append(tuple(index))
    ranked = torch.zeros(shape, dtype=torch.bool)
    for members in scopes.values():
        ranks = ranks_by_loop([strengths[index].item() for index in members])
        for index, rank in zip(members, ranks, strict=True):
            ranked[index] = rank < K2
    if bare_units(ranked):  # the floor acts: its laws are those below
        assert bare_units(mask.alive) < bare_units(ranked) or K2 * (math.prod(shape) // n) < sum(shape[:2])
        return
    for members in scopes.values():
        ranks = ranks_by_loop([strengths[index].item() for index in members])
        for index, rank in zip(members, ranks, strict=True):
            assert mask.keep[index].item() == (rank < K1)
            assert mask.restart[index].item() == (K1 <= rank < K2)
            assert mask.prune[index].item() == (rank >= K2)


@pytest.mark.parametrize(
    ("n", "k1", "k2", "expected"),
    [
        (25, 0.1, 0.15, (2, 3)),
        (9, 0.1, 0.15, (1, 1)),
        (10, 0.7, 0.7, (7, 7)),
        (100, 0.29, 0.57, (29, 57)),  # 0.29 * 100 is 28.999999999999996
        (1, 0.0, 0.0, (1, 1)),
        (4, 0.0, 1.0, (1, 4)),
    ],
)
def test_counts_are_whole_and_at_least_one_connection_stays(n, k1, k2, expected):
    assert scope_counts(n, k1, k2) == expected


def test_ties_are_broken_by_index():
    mask = rank_within_scopes(torch.zeros(2, 5), 0.4, 0.6, (0,), Units(read=False))
    assert mask.keep.equal(torch.tensor([[True, True, False, False, False]] * 2))
    assert mask.restart.equal(torch.tensor([[False, False, True, False, False]] * 2))


def test_a_global_ranking_ranks_the_layers_as_one():
    layers = [torch.randn(3, 4), torch.randn(2, 3, 2, 2) + 1]
    layers = [tensor.reshape(-1) for tensor in layers]  # without units, so that the floor has none to serve
    masks = rank_globally(layers, 0.25, 0.5)
    whole = rank_within_scopes(torch.cat([layer.reshape(-1) for layer in layers]), 0.25, 0.5, ())
    assert torch.cat([mask.keep.reshape(-1) for mask in masks]).equal(whole.keep)
    assert torch.cat([mask.restart.reshape(-1) for mask in masks]).equal(whole.restart)
    assert [mask.keep.shape for mask in masks] == [layer.shape for layer in layers]


def test_the_configured_scopes_are_filters_channels_and_layers():
    sizes = {scope: scope_size((6, 3, 5, 5), dims) for scope, dims in PRUNE_DIMS.items()}
    assert sizes == {PruningScope.filter: 25, PruningScope.channel: 75, PruningScope.layer: 450}


@pytest.mark.parametrize(
    ("k1", "k2", "message"),
    [
        (0.7, 0.5, r"k1=0.7, k2=0.5. To restart none, set k2=0.7"),
        (-0.1, 0.5, r"fractions in \[0, 1\].*k1=-0.1, k2=0.5"),
        (0.1, 1.5, r"fractions in \[0, 1\].*k1=0.1, k2=1.5"),
        (math.nan, 0.5, r"fractions in \[0, 1\].*k1=nan"),
    ],
)
def test_fractions_out_of_order_or_range_are_refused(k1, k2, message):
    with pytest.raises(ValueError, match=message):
        rank_within_scopes(torch.zeros(2, 2), k1, k2, ())


@pytest.mark.parametrize("prune_dims", [(0, 0), (2,), (0, -2)])
def test_dimensions_the_weight_has_not_are_refused(prune_dims):
    with pytest.raises(ValueError, match=r"at most once; got prune_dims=.*shape \(2, 2\)"):
        rank_within_scopes(torch.zeros(2, 2), 0.1, 0.2, prune_dims)


def test_strengths_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"got 1 of 4 that are not"):
        rank_within_scopes(torch.tensor([[1.0, math.nan], [0, 1]]), 0.1, 0.2, ())
    with pytest.raises(ValueError, match=r"got 1 of 2 that are not"):
        rank_globally([torch.zeros(3), torch.tensor([math.inf, 0])], 0.1, 0.2)
    with pytest.raises(ValueError, match=r"at least one layer; got none"):
        rank_globally([], 0.1, 0.2)


def test_a_prune_mask_shares_out_every_connection_exactly_once():
    yes, no = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"in exactly one of keep, restart and prune"):
        PruneMask(keep=yes, restart=yes, prune=no)
    with pytest.raises(ValueError, match=r"bool tensors of one shape"):
        PruneMask(keep=yes, restart=no, prune=torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"bool tensors of one shape"):
        PruneMask(keep=yes, restart=no, prune=torch.zeros(2))
