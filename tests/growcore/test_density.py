"""Methods that keep a density keep it while neurons come and go."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from growcore.config import PruningConfig, TrialConfig
from growcore.config.timing import Progress
from growcore.edits import decide
from growcore.networks import models
from growcore.sparse import allocate, bare_units, random_mask
from growcore.sparse.methods import PRUNING_METHODS, PruneObservation, allotment
from growcore.training import Training, checkpoint

MODELS = {
    "mlp": {"name": "mlp", "widths": [8, 8]},
    "conv": {"name": "conv", "widths": [4, 4, 4], "normalization": "batch"},
    "resnet": {"name": "resnet", "widths": [4, 8], "blocks": [1, 1], "hidden_fraction": 0.5},
    "resnet from nothing": {"name": "resnet", "widths": [4, 8], "blocks": [1, 1], "hidden_fraction": 0.0},
}
KEEPING = [name for name, method in PRUNING_METHODS.items() if method.starts_sparse or name == "gradual"]


def config(model, method, density=0.2, growth="random", **pruning):
    return TrialConfig.from_dict(
        {
            "data": {"name": "digits", "num_train": 100},
            "model": MODELS[model],
            "training": {"num_epochs": 3, "batch_size": 50},
            "seed": 3,
            "growth": {
                "method": growth,
                "every_epochs": 1,
                "num_neurons": 3,
                "end_fraction": 1.0,
                "start_epoch": 0,
            },
            "pruning": {
                "method": method,
                **({} if method in ("hebbian", "random") else {"density": density}),
                **({} if method == "static" else {"every_epochs": 1, "start_epoch": 1, "end_fraction": 0.5}),
                **pruning,
            },
        }
    )


def alive(model):
    layers = [layer for layer in models.sparse_layers(model).values() if layer.weight.numel()]
    return (
        sum(int(layer.mask.sum()) for layer in layers),
        sum(layer.mask.numel() for layer in layers),
        len(layers),
    )


def test_every_method_that_begins_sparse_keeps_its_density_and_so_does_gradual_pruning():
    assert KEEPING == ["hebbian_exchange", "set", "rigl", "gradual", "static"]
    for name, method in PRUNING_METHODS.items():
        assert (method.allot is not None) == (name in KEEPING)


@pytest.mark.parametrize("method", KEEPING)
@pytest.mark.parametrize(
    ("model", "density"),
    [*((model, 0.072) for model in MODELS), ("conv", 0.221), ("mlp", 0.7), ("conv", 0.7)],
)
def test_the_share_alive_is_the_one_asked_for_however_the_network_grows(model, method, density):
    setting = config(model, method, density)
    training = Training(setting)
    num_grown = 0
    for report in training:
        num_grown += sum(edit.number for edit in report.edits if edit.kind == "grow")
        number, size, num_layers = alive(training.model)
        if method != "gradual" or report.epoch > 2:  # it is on its way until then
            assert abs(number - density * size) <= num_layers + 1e-6
        for edit in report.edits:
            if "neurons came or went" in edit.reason:
                assert edit.kind == "prune"
    assert num_grown > 0
    for layer in models.sparse_layers(training.model).values():
        if int(layer.mask.sum()) >= sum(layer.mask.shape[:2]) - 1:
            assert bare_units(layer.mask, layer.units) == 0


@pytest.mark.parametrize("allocation", ["uniform", "erk"])
@pytest.mark.parametrize("method", KEEPING)
def test_each_layer_has_its_share_by_the_allocation_over_the_shapes_as_they_are(method, allocation):
    training = Training(config("conv", method, 0.3, allocation=allocation))
    list(training)
    layers = models.sparse_layers(training.model).values()
    wanted = allocate([layer.weight.shape for layer in layers], 0.3, allocation).num_alive
    found = tuple(int(layer.mask.sum()) for layer in layers)
    assert sum(found) == sum(wanted)
    if method != "gradual":  # none of its connections comes back, so that one layer may stand in for another
        assert found == wanted


@pytest.mark.parametrize("model", ["mlp", "conv", "resnet"])
def test_old_connections_of_a_static_network_stay_while_it_grows(model):
    training = Training(config(model, "static"))
    masks = {name: layer.mask.clone() for name, layer in models.sparse_layers(training.model).items()}
    for _ in training:
        for name, layer in models.sparse_layers(training.model).items():
            old, now = masks[name], layer.mask
            inside = now[tuple(slice(size) for size in old.shape)]
            assert not (old & ~inside).any()
            masks[name] = now.clone()


@pytest.mark.parametrize("method", ["set", "rigl"])
def test_density_is_kept_when_dead_neurons_go(method):
    values = config("mlp", method, 0.3).to_dict()
    values["model"]["init_gain"] = 0.02
    values["pruning"]["remove_dead"] = True
    training = Training(TrialConfig.from_dict(values))
    removed = 0
    for report in training:
        removed += sum(edit.number for edit in report.edits if edit.kind == "remove")
        number, size, num_layers = alive(training.model)
        assert abs(number - 0.3 * size) <= num_layers + 1e-6


@pytest.mark.parametrize("method", ["hebbian", "random"])
def test_methods_that_rank_all_connections_are_back_at_theirs_at_the_next_progression(method):
    setting = config("conv", method, k1=0.3, k2=0.4, schedule="constant", end_fraction=1.0)
    training = Training(setting)
    for report in training:
        for edit in report.edits:
            if edit.kind == "prune":
                assert edit.counts["density"] == pytest.approx(0.4, abs=0.02)
                assert "came or went" not in edit.reason


def test_a_growth_that_keeps_its_density_resumes_bit_for_bit(tmp_path):
    setting = config("conv", "set", growth="tiny")
    whole, first, second = Training(setting), Training(setting), Training(setting)
    list(whole)
    for report in first:
        if report.epoch == 2:
            break
    checkpoint.load(checkpoint.save(tmp_path, first), second)
    list(second)
    states = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def observed(shape, grown_from, density, seed):
    """A layer that had a share of the connections of a smaller shape, and all that it has gained."""
    generator = torch.Generator().manual_seed(seed)
    grown = torch.ones(shape, dtype=torch.bool)
    grown[tuple(slice(size) for size in grown_from)] = False
    size = torch.Size(grown_from).numel()
    mask = grown.clone()
    mask[~grown] = random_mask(grown_from, max(round(density * size), 1), generator).flatten()
    weight = torch.where(mask, torch.randn(shape, generator=generator), 0)
    return PruneObservation("a", torch.rand(shape, generator=generator), weight, mask, grown)


@given(
    old=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    new=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    density=st.floats(0.05, 1),
    share=st.floats(0.05, 1),
    seed=st.integers(0, 99),
)
def test_an_allotment_has_exactly_its_number_and_old_connections_go_last(old, new, density, share, seed):
    shape = (old[0] + new[0], old[1] + new[1])
    seen = observed(shape, old, density, seed)
    number = max(round(share * torch.Size(shape).numel()), 1)
    generator = torch.Generator().manual_seed(seed)
    mask = allotment.exactly(seen, number, seen.weight.abs(), seen.strengths, generator)
    assert int(mask.alive.sum()) == number
    assert not (mask.keep & ~seen.alive).any()
    assert not mask.restart.any() or mask.keep.equal(seen.alive)  # none comes where some had to go
    if number >= sum(shape) - 1:
        assert bare_units(mask.alive) == 0
    lost = seen.alive & ~seen.grown & mask.prune
    if lost.any():  # then every grown connection that is left serves a unit
        for index in (mask.keep & seen.grown).nonzero().tolist():
            without = mask.alive.clone()
            without[tuple(index)] = False
            served = bare_units(without) > bare_units(mask.alive)
            strongest_of_its_unit = seen.weight[tuple(index)].abs() in (
                seen.weight[index[0]].abs().max(),
                seen.weight[:, index[1]].abs().max(),
            )
            assert served or strongest_of_its_unit or number < sum(shape) - 1


def test_equal_grown_connections_are_chosen_by_lot():
    grown = torch.zeros(6, 20, dtype=torch.bool)
    grown[:, 10:] = True
    seen = PruneObservation(
        "a", torch.zeros(6, 20), torch.zeros(6, 20), torch.ones(6, 20, dtype=torch.bool), grown
    )
    masks = [
        allotment.exactly(seen, 80, seen.weight, seen.weight, torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    ]
    assert masks[0].keep.equal(masks[1].keep)
    assert not masks[0].keep.equal(masks[2].keep)
    assert masks[0].keep[:, :10].all()


def test_gradual_pruning_that_has_not_begun_leaves_what_grows():
    seen = observed((6, 8), (4, 6), 1.0, 0)
    settings = PruningConfig(method="gradual", density=0.2, start_epoch=3, every_epochs=2, end_fraction=1.0)
    assert decide.decide_allotment([seen], settings, Progress(2, 9, 1)) == []
    (edit,) = decide.decide_allotment([seen], settings, Progress(8, 9, 1))
    (again,) = decide.decide_pruning([seen], settings, Progress(7, 9, 1))
    assert int(edit.proposal.alive.sum()) == int(again.proposal.alive.sum())  # as at the last pruning
    assert "after neurons came or went, at epoch 8" in edit.reason
