import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from growcore import policies
from growcore.config import GrowthConfig, GrowthMethod, GrowthWhere, PruningConfig, PruningMethod
from growcore.growth import GrowthProposal
from growcore.policies import GrowthObservation, Progress, PruneObservation
from growcore.sparse import rank_within_scopes


def observation(layer: str, improvement: float, flops: int = 10, num_neurons: int = 2) -> GrowthObservation:
    proposal = GrowthProposal(
        alpha_weight=torch.ones(num_neurons, 3),
        alpha_bias=None,
        omega=torch.ones(4, num_neurons),
        eigenvalues=torch.ones(num_neurons),
        delta_weight=None,
        delta_bias=None,
        parameter_update_decrease=0.0,
        first_order_improvement=improvement,
        gamma=1.0,
    )
    return GrowthObservation(layer, 4, proposal, improvement, flops)


THREE = [observation("a", 0.1, flops=1), observation("b", 0.9, flops=100), observation("c", 0.5, flops=10)]


def config(where: GrowthWhere) -> GrowthConfig:
    return GrowthConfig(method=GrowthMethod.tiny, where=where)


@pytest.mark.parametrize(
    ("where", "layers", "reason"),
    [
        (GrowthWhere.all, ["a", "b", "c"], "every layer grows"),
        (GrowthWhere.largest_improvement, ["b"], r"largest first-order improvement \(0.9\)"),
        (GrowthWhere.largest_improvement_per_flop, ["a"], r"per FLOP \(0.05\)"),
    ],
)
def test_where_to_grow_decides_which_layers_and_says_why(where, layers, reason):
    edits = policies.decide_growth(THREE, config(where), Progress(epoch=3, num_growths=0))
    assert [edit.layer for edit in edits] == layers
    for edit in edits:
        assert "2 neurons by tiny at epoch 3" in edit.reason

    assert re.search(reason, edits[0].reason)


@given(num_growths=st.integers(0, 20))
def test_round_robin_gives_every_layer_its_turn(num_growths):
    (edit,) = policies.decide_growth(THREE, config(GrowthWhere.round_robin), Progress(1, num_growths))
    assert edit.layer == "abc"[num_growths % 3]


def test_nothing_observed_means_nothing_to_do():
    assert policies.decide_growth([], config(GrowthWhere.all), Progress(0, 0)) == []


@given(
    start=st.integers(0, 5),
    every=st.integers(1, 4),
    length=st.none() | st.integers(0, 9),
    epoch=st.integers(0, 30),
)
def test_edits_are_due_every_so_many_epochs_between_start_and_end(start, every, length, epoch):
    end = None if length is None else start + length
    due = epoch in range(start, 31 if end is None else end + 1, every)
    growth = GrowthConfig(method=GrowthMethod.tiny, start_epoch=start, every_epochs=every, end_epoch=end)
    pruning = PruningConfig(
        method=PruningMethod.hebbian, start_epoch=start, every_epochs=every, end_epoch=end
    )
    assert policies.growth_is_due(growth, epoch) == due
    assert policies.pruning_is_due(pruning, epoch) == due


def test_without_a_method_nothing_is_ever_due():
    assert not any(policies.growth_is_due(GrowthConfig(), epoch) for epoch in range(20))
    assert not any(policies.pruning_is_due(PruningConfig(), epoch) for epoch in range(20))


@given(num=st.integers(1, 9), width=st.integers(1, 20), room=st.integers(0, 20))
def test_a_layer_gains_what_is_asked_for_but_never_beyond_its_full_width(num, width, room):
    growth = GrowthConfig(num_neurons=num, max_width=width + room)
    assert policies.neurons_to_add(growth, width) == min(num, room)
    assert policies.neurons_to_add(growth, width + room + 3) == 0


def test_a_progression_is_decided_for_every_sparse_layer_with_its_fractions_as_the_reason():
    masks = [
        PruneObservation(name, rank_within_scopes(torch.rand(2, 2, 3, 3), 0.2, 0.5, ())) for name in "ab"
    ]
    pruning = PruningConfig(method=PruningMethod.hebbian, k1=0.2, k2=0.5)
    edits = policies.decide_pruning(masks, pruning, Progress(epoch=4, num_growths=0))
    assert [edit.layer for edit in edits] == ["a", "b"]
    assert edits[0].reason == (
        "hebbian strength within each layer at epoch 4: the strongest 0.2 stay, up to 0.5 restart"
    )
    assert edits[0].proposal is masks[0].proposal
