"""Whether a path of connections leads from the input to each output, and where that is said."""

import itertools
import sys
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from growcore.config import TrialConfig
from growcore.data import load
from growcore.diagnostics import FindingKind, Severity, checks
from growcore.networks import models
from growcore.networks.paths import every_unit_reads, find_paths
from growcore.sparse import DSConv2d, DSLinear, PruneMask, bare_units
from growcore.sparse.methods import Decision, PruningMethod
from growcore.sparse.methods.method import TIMES
from growcore.training import Training, TrialInfeasible

FUNCTIONS = [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.Identity]


def reached_by_walking(masks):
    """Outputs of a chain of layers that the input reaches, layer by layer."""
    lit = torch.ones(masks[0].shape[1], dtype=torch.bool)
    for mask in masks:
        joined = mask.flatten(2).any(2) if mask.dim() > 2 else mask
        if joined.shape[1] != len(lit):  # a flattened map
            lit = lit.repeat_interleave(joined.shape[1] // len(lit))
        lit = (joined & lit).any(1)
    return tuple(lit.tolist())


@given(
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    density=st.floats(0.1, 0.9),
    function=st.sampled_from(FUNCTIONS),
    norm=st.sampled_from([None, nn.BatchNorm1d, nn.LayerNorm]),
    seed=st.integers(0, 99),
)
def test_outputs_of_a_perceptron_are_reached_as_a_walk_along_its_masks_says(
    widths, density, function, norm, seed
):
    torch.manual_seed(seed)
    sizes = [4, *widths, 3]
    layers = [DSLinear(a, b) for a, b in itertools.pairwise(sizes)]
    for layer in layers:
        layer.start_sparse(torch.rand(layer.weight.shape) < density)
    hidden = [[layer, *([norm(layer.out_features)] if norm else []), function()] for layer in layers[:-1]]
    model = nn.Sequential(nn.Flatten(), *itertools.chain(*hidden), layers[-1])
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    paths = find_paths(model, (1, 2, 2))
    assert paths.reached == reached_by_walking([layer.mask for layer in layers])
    assert (paths.cut_at is None) == any(paths.reached)
    assert all(paths.reached) or not every_unit_reads(model)
    assert torch.get_rng_state().equal(state)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@given(
    density=st.floats(0.02, 0.5), seed=st.integers(0, 99), pool=st.sampled_from([nn.AvgPool2d, nn.MaxPool2d])
)
def test_outputs_of_a_convolution_network_are_reached_as_a_walk_says(density, seed, pool):
    torch.manual_seed(seed)
    layers = [DSConv2d(2, 3, 1), DSConv2d(3, 4, 1), DSLinear(4 * 4, 3)]
    for layer in layers:
        layer.start_sparse(torch.rand(layer.weight.shape) < density)
    model = nn.Sequential(
        layers[0],
        nn.BatchNorm2d(3),
        nn.ReLU(),
        layers[1],
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        pool(2),
        nn.Flatten(),
        layers[2],
    )
    assert find_paths(model, (2, 4, 4)).reached == reached_by_walking([layer.mask for layer in layers])


@pytest.mark.parametrize(("where", "cut_at"), [("conv1", "conv1"), ("conv2", "conv2"), ("conv3", "conv3")])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_a_layer_without_connections_cuts_a_chain_there(where, cut_at, activation):
    model = build({"name": "conv", "widths": [4, 4, 4], "activation": activation, "normalization": "batch"})
    assert all(find_paths(model, (1, 8, 8)).reached)
    layer = models.sparse_layers(model)[where]
    layer.start_sparse(torch.zeros_like(layer.mask))
    paths = find_paths(model, (1, 8, 8))
    assert paths.num_unreached == 10
    assert paths.cut_at == cut_at


@pytest.mark.parametrize("hidden", [0.0, 0.5])
def test_a_shortcut_is_a_path(hidden):
    model = build({"name": "resnet", "widths": [4, 8], "blocks": [1, 1], "hidden_fraction": hidden})
    for layer in models.sparse_layers(model).values():
        layer.start_sparse(torch.zeros_like(layer.mask))
    assert all(find_paths(model, (1, 8, 8)).reached)


def test_a_connection_that_lives_at_zero_is_one():
    model = nn.Sequential(nn.Flatten(), DSLinear(4, 3), nn.ReLU(), DSLinear(3, 2))
    with torch.no_grad():
        model[1].weight.zero_()
    assert all(find_paths(model, (1, 2, 2)).reached)
    with torch.no_grad():
        model[3] = nn.Linear(3, 2)
        model[3].weight[1] = 0
    paths = find_paths(model, (1, 2, 2))
    assert paths.reached == (True, False)
    assert str(paths) == "no path leads from the input to 1 of 2 outputs"


def values(**pruning):
    return {
        "data": {"name": "digits", "num_train": 100},
        "model": {"name": "conv", "widths": [6, 6, 6], "normalization": "batch"},
        "training": {"num_epochs": 2, "batch_size": 25},
        "pruning": {
            "method": "hebbian",
            "start_epoch": 1,
            "end_fraction": 1.0,
            "update_interval": 2,
            **pruning,
        },
    }


def build(model, **pruning):
    config = TrialConfig.from_dict({**values(**pruning), "model": model})
    return models.build(config, (1, 8, 8), 10)


def cuts_everything(observations, config, progress, generator):
    """A method that a layer in the middle does not survive."""
    masks = []
    for index, seen in enumerate(observations):
        keep = torch.full_like(seen.alive, index != 1)
        masks.append(PruneMask(keep=keep, restart=torch.zeros_like(keep), prune=~keep))
    return Decision(masks, "cut")


@pytest.fixture
def cutting(monkeypatch):
    """A configuration whose second epoch begins with a cut: built-in methods leave a path."""
    module = types.ModuleType("cutting_methods")
    module.PRUNING_METHODS = {"cut": PruningMethod(meaning="cuts", keys=TIMES, decide=cuts_everything)}
    monkeypatch.setitem(sys.modules, "cutting_methods", module)
    times = {"method": "cut", "start_epoch": 1, "end_fraction": 1.0}
    return {**values(), "imports": ["cutting_methods"], "pruning": times}


def test_a_network_that_an_edit_cuts_is_said_at_the_edit_and_in_the_report(cutting):
    first, last = Training(TrialConfig.from_dict(cutting))
    assert first.metrics["sparse/unreached_outputs"] == 0
    assert last.metrics["sparse/unreached_outputs"] == 10
    for edit in last.edits:
        assert (
            "no path leads from the input to any output; conv2 is the first that nothing passes"
            in edit.reason
        )
    assert any("12 of its inputs and outputs have no connection" in edit.reason for edit in last.edits)


def test_a_network_that_an_edit_cuts_ends_the_trial_where_that_is_asked_for(cutting):
    training = Training(TrialConfig.from_dict({**cutting, "preflight": "fail"}))
    reports = iter(training)
    next(reports)
    with pytest.raises(
        TrialInfeasible, match=r"conv2: no path leads from the input to any output.*Raise pruning"
    ):
        next(reports)


def test_the_preflight_says_that_a_network_is_cut_from_the_start_and_ends_it_where_that_is_asked_for(
    monkeypatch,
):
    config = TrialConfig.from_dict({**values(method="static", density=0.3), "preflight": "fail"})
    training = Training(config)
    layer = models.sparse_layers(training.model)["conv2"]
    layer.start_sparse(torch.zeros_like(layer.mask))
    (finding,) = checks.inspect(training.model, load(config.data)).findings
    assert (finding.severity, finding.kind, finding.layer) == (Severity.fail, FindingKind.no_path, "conv2")
    with pytest.raises(TrialInfeasible, match=r"conv2: no path leads"):
        next(iter(training))


RANKED = {"k1": 0.04, "k2": 0.05, "schedule": "constant"}
AT_FIVE_PERCENT = [
    *(
        {"method": method, "density": 0.05}
        for method in ("static", "set", "rigl", "hebbian_exchange", "gradual")
    ),
    *({"method": "random", "scope": scope, **RANKED} for scope in ("layer", "global")),
    *(
        {"method": "hebbian", "scope": scope, "strength": strength, **RANKED}
        for scope in ("layer", "global")
        for strength in ("coactivation", "gradient", "magnitude")
    ),
]


@pytest.mark.parametrize("model", ["mlp", "conv"])
@pytest.mark.parametrize("pruning", AT_FIVE_PERCENT, ids=lambda p: "-".join(map(str, p.values())))
def test_no_method_cuts_a_network_at_five_percent(model, pruning):
    config = values(**pruning)
    config["model"] = {"name": model, "widths": [24, 24, 24]}
    training = Training(TrialConfig.from_dict(config))
    for report in training:
        assert report.metrics["sparse/unreached_outputs"] == 0
    for layer in models.sparse_layers(training.model).values():
        enough = sum(layer.mask.shape[:2]) - 1
        ranked_together = pruning.get("scope") == "global"
        if ranked_together or int(layer.mask.sum()) >= enough:
            assert bare_units(layer.mask, layer.units) == 0
