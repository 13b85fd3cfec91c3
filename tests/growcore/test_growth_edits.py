"""Growth as an edit: what is observed, promised and recorded comes true."""

import copy

import pytest
import torch
from torch import nn

from growcore.config import TrialConfig
from growcore.edits import decide, surgery
from growcore.edits.line_search import line_search, mean_loss, scale
from growcore.edits.observe import observe_growth
from growcore.growth.methods import GROWTH_METHODS
from growcore.networks import cost, models
from growcore.training import Training

SHAPE = (1, 8, 8)


def setting(**parts) -> TrialConfig:
    values = {
        "data": {"name": "digits", "num_train": 200},
        "model": {"name": "conv", "widths": [3, 4, 4]},
        "growth": {"method": "tiny", "num_neurons": 3},
    }
    return TrialConfig.from_dict(
        {name: {**values.get(name, {}), **parts.get(name, {})} for name in values | parts}
    )


def batches(num: int = 2) -> list:
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(48, *SHAPE, generator=generator).double() for _ in range(num)]
    return [(x, torch.randint(0, 10, (48,), generator=generator)) for x in images]


def observed(model, config, data):
    progress = decide.Progress(1, 9, 0)
    found = observe_growth(
        model, models.grow_pairs(model), data, config.growth, torch.Generator().manual_seed(2)
    )
    return found, decide.decide_growth(found, config.growth, progress)


NETWORKS = {
    "conv": {"name": "conv", "widths": [3, 4, 4]},
    "mlp": {"name": "mlp", "widths": [6, 5]},
    "resnet": {"name": "resnet", "widths": [3, 4], "blocks": [1, 1], "normalization": "batch"},
    "vgg": {"name": "vgg", "widths": [3, 4], "blocks": [1, 1]},
}


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "gelu", "sigmoid"])
@pytest.mark.parametrize("method", [name for name, method in GROWTH_METHODS.items() if method.promises])
def test_what_an_edit_predicts_comes_true_as_the_scaling_factor_goes_to_zero(network, activation, method):
    config = setting(
        model={**NETWORKS[network], "activation": activation}, growth={"method": method, "num_neurons": 3}
    )
    model, data = models.build(config, SHAPE, 10).double(), batches()
    _, edits = observed(model, config, data)
    grown = [edit for edit in edits if edit.kind == "grow"]
    assert grown
    for edit in grown:
        trial, gamma = copy.deepcopy(model), 1e-4
        surgery.apply([scale(edit, gamma)], trial)
        realised = (mean_loss(model, data) - mean_loss(trial, data)) / gamma**2
        assert edit.measured["first_order_improvement"] == pytest.approx(realised, rel=2e-2)


@pytest.mark.parametrize("method", ["gradmax", "zeros"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("network", list(NETWORKS))
def test_methods_that_promise_no_change_change_nothing(method, activation, network):
    config = setting(model={**NETWORKS[network], "activation": activation}, growth={"method": method})
    model, data = models.build(config, SHAPE, 10).double(), batches()
    before = mean_loss(model, data)
    _, edits = observed(model, config, data)
    surgery.apply([scale(edit, 1.0) for edit in edits], model)
    assert mean_loss(model, data) == pytest.approx(before, abs=1e-9)


@pytest.mark.parametrize("method", ["tiny", "gradmax"])
def test_before_a_head_of_zeros_nothing_is_proposed_and_the_log_says_why(method):
    config = setting(growth={"method": method})
    model, data = models.build(config, SHAPE, 10).double(), batches()
    nn.init.zeros_(model.out.weight)
    _, edits = observed(model, config, data)
    assert [(edit.layer, edit.kind) for edit in edits] == [
        ("conv3", "grow"),  # which the head reads itself
        ("conv1", "skip"),
        ("conv2", "skip"),
    ]
    refused = edits[1:]
    assert all(edit.reason.startswith("no gradient that new neurons could correct") for edit in refused)
    search = line_search(model, refused, data, [1.0])
    before = copy.deepcopy(model.state_dict())
    applied = surgery.apply(search.edits, model)
    assert (search.decrease, [done.number for done in applied]) == (0.0, [0, 0])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_second_look_sees_the_batches_of_the_statistics_and_is_counted():
    """ReLU costs one more pass over them than tanh, whose figure is exact without."""
    data, flops = batches(), {}
    for activation in ("relu", "tanh"):
        config = setting(model={"activation": activation})
        model = models.build(config, SHAPE, 10).double()
        _, flops[activation] = cost.executed_flops(lambda m=model, c=config: observed(m, c, data))
    size = cost.measure(model, SHAPE)
    extra = flops["relu"] - flops["tanh"]
    assert extra > 0.9 * size.training_flops * sum(len(y) for _, y in data)


def test_a_training_records_layers_without_a_proposal_and_goes_on():
    config = setting(
        growth={"start_epoch": 0, "every_epochs": 1, "end_fraction": 1.0, "method": "gradmax"},
        training={"num_epochs": 2, "batch_size": 32},
    )
    training = Training(config)
    nn.init.zeros_(training.model.out.weight)
    records, _ = training.editor.edit(training.model, training.optimizer, 0, 0)
    assert [(r.layer, r.kind) for r in records] == [("conv3", "grow"), ("conv1", "skip"), ("conv2", "skip")]
    assert "no gradient" in records[1].reason
    assert (records[1].number, records[1].predicted_decrease) == (0, None)
