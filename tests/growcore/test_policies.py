import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from growcore.config import (
    DensityAllocation,
    GrowthConfig,
    GrowthWhere,
    PruningConfig,
    PruningScope,
    ScheduleShape,
)
from growcore.config.timing import Progress
from growcore.edits import decide as policies
from growcore.edits.decide import GrowthObservation
from growcore.growth import GrowthProposal
from growcore.sparse import random_mask
from growcore.sparse.methods import PruneObservation


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
        predicted_decrease=improvement,
        gamma=1.0,
    )
    return GrowthObservation(layer, 4, proposal, improvement, flops)


THREE = [observation("a", 0.1, flops=1), observation("b", 0.9, flops=100), observation("c", 0.5, flops=10)]


def config(where: GrowthWhere) -> GrowthConfig:
    return GrowthConfig(method="tiny", where=where)


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
    assert policies.growth_is_due(GrowthConfig(method="tiny", **timing), progress) == due
    assert policies.pruning_is_due(PruningConfig(method="hebbian", **timing), progress) == due


def test_without_a_method_nothing_is_ever_due():
    for epoch in range(20):
        assert not policies.growth_is_due(GrowthConfig(), Progress(epoch, 20, 0))
        assert not policies.pruning_is_due(PruningConfig(), Progress(epoch, 20, 0))


@given(num=st.integers(1, 9), width=st.integers(1, 20), room=st.integers(0, 20))
def test_a_layer_gains_what_is_asked_for_but_never_beyond_its_full_width(num, width, room):
    growth, limit = GrowthConfig(num_neurons=num), width + room
    assert policies.neurons_to_add(growth, width, limit) == min(num, room)
    assert policies.neurons_to_add(growth, width + room + 3, limit) == 0
    assert policies.neurons_to_add(growth, width, None) == num


def prune_observation(layer: str, density: float = 0.5, shape: tuple[int, ...] = (4, 3, 3, 3)):
    generator = torch.Generator().manual_seed(len(layer))
    alive = random_mask(shape, round(density * torch.Size(shape).numel()), generator)
    weight = torch.where(alive, torch.randn(shape, generator=generator), 0)
    return PruneObservation(layer, torch.rand(shape, generator=generator), weight, alive)


def decided(method: str, epoch: int = 4, num_epochs: int = 9, **settings) -> list:
    observations = [prune_observation("a"), prune_observation("bb", 0.3)]
    config = PruningConfig(method=method, **settings)
    return policies.decide_pruning(
        observations, config, Progress(epoch, num_epochs, 0), torch.Generator().manual_seed(0)
    )


def density(edit) -> float:
    return float(edit.proposal.alive.float().mean())


def test_a_progression_is_decided_for_every_sparse_layer_and_says_by_which_fractions():
    edits = decided("hebbian", k1=0.2, k2=0.5)
    assert [edit.layer for edit in edits] == ["a", "bb"]
    assert edits[0].reason == (
        "coactivation strength within each layer: the strongest 0.2 stay, up to 0.5 restart, at epoch 4"
    )
    assert [density(edit) for edit in edits] == [0.5, 0.5]


def test_ranked_over_all_layers_the_counts_hold_for_all_together():
    edits = decided("hebbian", k1=0.2, k2=0.5, scope=PruningScope.all_layers)
    assert sum(int(edit.proposal.alive.sum()) for edit in edits) == 108
    assert density(edits[0]) != 0.5
    assert "over all layers" in edits[0].reason


@pytest.mark.parametrize("method", ["set", "rigl", "hebbian_exchange"])
def test_an_exchange_keeps_the_number_of_connections(method):
    observations = [prune_observation("a"), prune_observation("bb", 0.3)]
    for observation, edit in zip(observations, decided(method, fraction=0.4), strict=True):
        assert edit.proposal.alive.sum() == observation.alive.sum()
        assert int(edit.proposal.restart.sum()) == int(0.4 * int(observation.alive.sum()) + 1e-9)
    assert "0.4 exchanged" in edit.reason


def test_static_connections_are_never_changed():
    assert decided("static") == []


@pytest.mark.parametrize("shape", ["linear", "cubic", "cosine"])
@pytest.mark.parametrize(("start", "every"), [(1, 1), (0, 2), (2, 3)])
def test_gradual_pruning_falls_step_by_step_and_reaches_its_density_at_the_last_edit(shape, start, every):
    timing = {"start_epoch": start, "every_epochs": every}
    config = PruningConfig(method="gradual", **timing)
    due = [e for e in range(20) if policies.pruning_is_due(config, Progress(e, 20, 0))]
    edits = [
        policies.decide_pruning(
            [prune_observation("a", 1.0)],
            PruningConfig(
                method="gradual",
                density=0.25,
                schedule=ScheduleShape(shape),
                allocation=DensityAllocation.uniform,
                **timing,
            ),
            Progress(epoch, 20, 0),
        )[0]
        for epoch in due
    ]
    densities = [density(edit) for edit in edits]
    assert densities == sorted(densities, reverse=True)
    assert densities[0] < 1
    assert densities[-1] == 0.25


def test_the_share_that_is_exchanged_falls_along_its_schedule():
    moved = [
        int(decided("rigl", epoch, 20, schedule=ScheduleShape.cosine)[0].proposal.restart.sum())
        for epoch in range(1, 16)
    ]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] == int(0.3 * 54)
    assert 0 <= moved[-1] < moved[0] / 4


def test_scheduled_hebbian_pruning_ends_at_its_fractions():
    settings = {"k1": 0.2, "k2": 0.5, "schedule": ScheduleShape.linear, "every_epochs": 1}
    densities = [density(decided("hebbian", e, 20, **settings)[0]) for e in range(1, 16)]
    assert densities == sorted(densities, reverse=True)
    assert densities[0] > 0.9
    assert densities[-1] == 0.5


def refused(layer: str) -> GrowthObservation:
    return GrowthObservation(layer, 4, None, 0.0, 10, refusal="no gradient arrives here")


@pytest.mark.parametrize("where", list(GrowthWhere))
def test_a_layer_that_nothing_is_proposed_for_leaves_the_choice_to_the_others_and_is_said(where):
    mixed = [refused("x"), *THREE]
    edits = policies.decide_growth(mixed, config(where), Progress(3, 9, 1))
    without = policies.decide_growth(THREE, config(where), Progress(3, 9, 1))
    assert [(e.layer, e.kind, e.reason) for e in edits[:-1]] == [(e.layer, e.kind, e.reason) for e in without]
    assert (edits[-1].layer, edits[-1].kind, edits[-1].proposal) == ("x", "skip", None)
    assert edits[-1].reason == "no gradient arrives here at epoch 3"


def test_where_nothing_is_proposed_every_layer_is_said():
    edits = policies.decide_growth([refused("x"), refused("y")], config(GrowthWhere.all), Progress(3, 9, 1))
    assert [(edit.layer, edit.kind) for edit in edits] == [("x", "skip"), ("y", "skip")]
