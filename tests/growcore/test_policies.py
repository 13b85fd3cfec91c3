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
    edits = policies.decide_growth(THREE, config(where), Progress(epoch=3, num_epochs=9, num_growths=0))
    assert [edit.layer for edit in edits] == layers
    for edit in edits:
        assert "2 neurons by tiny at epoch 3" in edit.reason

    assert re.search(reason, edits[0].reason)


@given(num_growths=st.integers(0, 20))
def test_round_robin_gives_every_layer_its_turn(num_growths):
    (edit,) = policies.decide_growth(THREE, config(GrowthWhere.round_robin), Progress(1, 9, num_growths))
    assert edit.layer == "abc"[num_growths % 3]


def test_nothing_observed_means_nothing_to_do():
    assert policies.decide_growth([], config(GrowthWhere.all), Progress(0, 9, 0)) == []


@given(start=st.integers(0, 5), every=st.integers(1, 4), end=st.integers(0, 8), epoch=st.integers(0, 30))
def test_edits_are_due_every_so_many_epochs_from_the_start_to_a_fraction_of_the_training(
    start, every, end, epoch
):
    progress = Progress(epoch, num_epochs=32, num_growths=0)
    due = epoch in range(start, 4 * end + 1, every)
    timing = {"start_epoch": start, "every_epochs": every, "end_fraction": end / 8}
    assert policies.growth_is_due(GrowthConfig(method=GrowthMethod.tiny, **timing), progress) == due
    assert policies.pruning_is_due(PruningConfig(method=PruningMethod.hebbian, **timing), progress) == due


def test_without_a_method_nothing_is_ever_due():
    for epoch in range(20):
        assert not policies.growth_is_due(GrowthConfig(), Progress(epoch, 20, 0))
        assert not policies.pruning_is_due(PruningConfig(), Progress(epoch, 20, 0))


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
    edits = policies.decide_pruning(masks, pruning, Progress(epoch=4, num_epochs=9, num_growths=0))
    assert [edit.layer for edit in edits] == ["a", "b"]
    assert edits[0].reason == (
        "hebbian strength within each layer at epoch 4: the strongest 0.2 stay, up to 0.5 restart"
    )
    assert edits[0].proposal is masks[0].proposal
