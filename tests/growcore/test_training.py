import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from growcore.config import TrialConfig
from growcore.networks import cost, models
from growcore.training import Report, Training, TrialFailed, checkpoint


def config(**changes: object) -> TrialConfig:
    """A small network on synthetic images that grows and is pruned; dotted keys change it."""
    values: dict = {
        "data": {"name": "synthetic", "num_train": 300, "crop_padding": 1, "flip": True},
        "model": {"name": "conv", "widths": [3, 4, 4]},
        "growth": {"method": "tiny", "num_neurons": 2, "statistics_batches": 2, "line_search_batches": 1},
        "pruning": {"method": "hebbian", "k1": 0.5, "k2": 0.8, "update_interval": 2},
        "optimizer": {"lr": 0.05},
        "training": {"num_epochs": 4, "batch_size": 64},
    }
    for key, value in changes.items():
        group, _, name = key.partition("__")
        values[group] = {**values[group], name: value} if name else value
    return TrialConfig.from_dict(values)


def reports(setting: TrialConfig) -> list[Report]:
    return list(Training(setting))


def without_time(report: Report) -> dict:
    values = report.to_dict()
    del values["metrics"]["cost/wall_seconds"]
    return values


def test_a_report_comes_for_every_evaluation_and_only_the_last_is_finished():
    told = reports(config(training={"num_epochs": 5, "report_every_epochs": 2, "batch_size": 64}))
    assert [report.epoch for report in told] == [2, 4, 5]
    assert [report.finished for report in told] == [False, False, True]
    assert ["test/accuracy" in report.metrics for report in told] == [False, False, True]


def test_reports_carry_the_metrics_that_people_and_searchers_read():
    last = reports(config())[-1]
    for key in (
        "train/loss",
        "val/loss",
        "val/accuracy",
        "val/accuracy/3",
        "model/parameters",
        "model/nonzero_parameters",
        "model/forward_flops",
        "model/width/conv1",
        "sparse/density/conv2",
        "activity/dead_fraction/conv1",
        "cost/train_flops",
        "cost/sparse_flops",
        "cost/wall_seconds",
        "growth/first_order_improvement/conv1",
        "growth/realised_decrease",
    ):
        assert isinstance(last.metrics[key], float), key
        assert math.isfinite(last.metrics[key]), key


def test_a_network_learns_grows_and_loses_connections_while_it_trains():
    setting = config(
        data={"name": "synthetic"},
        pruning__every_epochs=4,
        growth__every_epochs=3,
        training={"num_epochs": 10, "batch_size": 32},
    )
    training = Training(setting)
    told = list(training)
    assert told[-1].metrics["val/accuracy"] > 0.9
    assert told[-1].metrics["model/width/conv1"] > told[0].metrics["model/width/conv1"]
    assert told[-1].metrics["sparse/density/conv2"] < told[0].metrics["sparse/density/conv2"]
    assert told[-1].metrics["model/nonzero_parameters"] < told[-1].metrics["model/parameters"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"growth": {"method": "random", "num_neurons": 2}},
        {"growth": {"method": "gradmax", "num_neurons": 2}},
        {"growth": {"method": "variance_transfer", "num_neurons": 2, "init": "kaiming"}},
        {"model": {"name": "mlp", "widths": [6, 5], "normalization": "batch"}},
        {"pruning": {"method": "random", "k1": 0.3, "k2": 0.6}},
        {"optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.01, "schedule": "constant"}},
        {"growth__where": "round_robin"},
        {
            "model": {"name": "resnet", "widths": [4, 6], "blocks": [1, 1], "hidden_fraction": 0.0},
            "growth": {"method": "tiny", "num_neurons": 2},
        },
        {"pruning": {"method": "set", "density": 0.4, "schedule": "cosine"}},
        {"pruning": {"method": "rigl", "density": 0.4, "update_interval": 2}},
        {"pruning": {"method": "gradual", "density": 0.3, "schedule": "cubic", "scope": "global"}},
        {
            "growth": {"method": "none"},
            "pruning": {"method": "none"},
            "training": {"num_epochs": 12, "batch_size": 64, "patience": 2, "min_improvement": 0.3},
        },
    ],
)
@pytest.mark.parametrize(
    "stop_after", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path, changes, stop_after):
    whole = Training(config(**changes))
    expected = [without_time(report) for report in whole]
    first = Training(config(**changes))
    told = []
    for report in first:
        told.append(without_time(report))
        if len(told) == stop_after:
            break
    path = checkpoint.save(tmp_path, first)
    torch.rand(7)  # what happens in between elsewhere must not matter
    second = Training(config(**changes))
    checkpoint.load(path, second)
    told += [without_time(report) for report in second]
    assert told == expected
    for (name, a), (_, b) in zip(
        whole.model.state_dict().items(), second.model.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


@settings(max_examples=5)
@given(seed=st.integers(0, 100))
def test_equal_configurations_give_equal_trials_and_other_seeds_give_others(seed):
    setting = config(training={"num_epochs": 2, "batch_size": 64}, seed=seed)
    first, second = reports(setting), reports(setting)
    other = reports(config(training={"num_epochs": 2, "batch_size": 64}, seed=seed + 1))
    assert [without_time(r) for r in first] == [without_time(r) for r in second]
    assert first[-1].metrics["train/loss"] != other[-1].metrics["train/loss"]


def test_every_edit_is_recorded_with_its_reason_and_what_it_changed():
    told = reports(config())
    edits = [edit for report in told for edit in report.edits]
    grown = [edit for edit in edits if edit.kind == "grow"]
    pruned = [edit for edit in edits if edit.kind == "prune"]
    assert grown
    assert pruned
    for edit in grown:
        assert edit.after.width == edit.before.width + edit.number
        assert edit.after.parameters > edit.before.parameters
        assert "by tiny at epoch" in edit.reason
        assert edit.realised_decrease > 0
    for edit in pruned:
        assert edit.number == edit.counts["pruned"] > 0
        assert edit.counts["kept"] + edit.counts["reinitialised"] + edit.counts["pruned"] > 0
        assert edit.after.nonzero_parameters < edit.before.parameters


def test_zero_outgoing_weights_leave_the_loss_as_it_is():
    told = reports(config(growth={"method": "zeros", "num_neurons": 2}, pruning={"method": "none"}))
    grown = [edit for report in told for edit in report.edits]
    assert grown
    assert all(abs(edit.realised_decrease) < 1e-5 for edit in grown)


def test_a_growth_that_no_scaling_factor_justifies_is_left_and_said():
    # With no error left on the training images there is nothing that new neurons could lower.
    setting = config(
        data={"name": "synthetic", "num_train": 64},
        growth={"method": "tiny", "start_epoch": 1, "max_scaling_factor": 1e3, "line_search_batches": 1},
        training={"num_epochs": 2, "batch_size": 32},
    )
    training = Training(setting)
    first = next(iter(training))
    edits, _ = training.editor.edit(training.model, training.optimizer, 1, training.step)
    assert first.edits == []
    skipped = [edit for edit in edits if edit.kind == "skip"]
    assert all(edit.number == 0 and "no scaling factor lowered the loss" in edit.reason for edit in skipped)
    assert len(skipped) == 3


def test_train_flops_count_every_image_forward_and_backward_and_the_growth_s_own_work():
    plain = config(
        growth={"method": "none"}, pruning={"method": "none"}, training={"num_epochs": 2, "batch_size": 50}
    )
    training = Training(plain)
    told = list(training)
    per_image = cost.measure(training.model, training.data.image_shape).training_flops
    assert told[-1].metrics["cost/train_flops"] == 2 * 300 * per_image
    grown = reports(config(pruning={"method": "none"}))
    for before, after in itertools.pairwise(grown):
        epoch_flops = after.metrics["cost/train_flops"] - before.metrics["cost/train_flops"]
        assert epoch_flops > 300 * 2 * after.metrics["model/forward_flops"]
    assert grown[1].metrics["cost/train_flops"] > told[-1].metrics["cost/train_flops"]


@pytest.mark.parametrize("method", ["static", "set", "rigl", "hebbian_exchange"])
@pytest.mark.parametrize("allocation", ["uniform", "erk"])
def test_methods_that_begin_sparse_stay_at_their_density(method, allocation):
    setting = config(
        growth={"method": "none"},
        pruning={"method": method, "density": 0.3, "allocation": allocation, "update_interval": 2},
    )
    for report in reports(setting):
        layers = [1 * 3 * 9, 3 * 4 * 9, 4 * 4 * 9]
        shares = [report.metrics[f"sparse/density/conv{i}"] for i in (1, 2, 3)]
        alive = sum(size * share for size, share in zip(layers, shares, strict=True))
        assert alive / sum(layers) == pytest.approx(0.3, abs=0.01)
        assert (max(shares) - min(shares) < 0.02) == (allocation == "uniform")


def test_sparse_flops_fall_below_dense_ones_once_connections_are_gone():
    last = reports(config(growth={"method": "none"}))[-1]
    assert last.metrics["cost/sparse_flops"] < last.metrics["cost/train_flops"]


def test_a_loss_that_is_not_finite_ends_the_trial_with_a_reason():
    with pytest.raises(TrialFailed, match=r"training loss became (nan|inf) in epoch 1.*optimizer.lr=1e\+30"):
        reports(config(optimizer={"lr": 1e30, "momentum": 0.0}))


def test_stopping_is_ceasing_to_iterate():
    training = Training(config())
    for report in training:
        if report.epoch == 2:
            break
    assert training.epoch == 2
    assert [report.epoch for report in training] == [3, 4]


def test_building_is_quick_because_data_is_loaded_once():
    import time

    Training(config())
    started = time.perf_counter()
    training = Training(config())
    assert training.data is Training(config()).data
    assert time.perf_counter() - started < 5


def test_growth_without_two_batches_says_what_to_change():
    setting = config(data={"name": "synthetic", "num_train": 40})
    with pytest.raises(ValueError, match=r"training.batch_size=64 leaves 1 of 40 images"):
        reports(setting)


def test_a_layer_grows_no_wider_than_its_full_width():
    last = reports(config(growth__max_width=5, growth__num_neurons=4))[-1]
    assert last.metrics["model/width/conv1"] == 5
    assert last.metrics["model/width/conv2"] == 5


@pytest.mark.parametrize("where", ["round_robin", "largest_improvement", "largest_improvement_per_flop"])
def test_one_layer_at_a_time_grows_unless_all_are_asked_for(where):
    for report in reports(config(growth__where=where)):
        assert sum(edit.kind in ("grow", "skip") for edit in report.edits) <= 1


def test_a_checkpoint_is_plain_tensors_and_values(tmp_path):
    training = Training(config())
    next(iter(training))
    path = checkpoint.save(tmp_path, training)
    state = checkpoint.read_state(path)
    assert state["widths"] == models.widths(training.model)
    manifest = checkpoint.read_manifest(path)
    assert manifest["train_flops"] == training.train_flops
    assert TrialConfig.from_dict(manifest["config"]) == training.config


@pytest.mark.slow
def test_a_grown_pruned_network_learns_real_images(data_root):
    last = reports(
        config(
            data={"name": "fashion_mnist", "root": str(data_root), "num_train": 2000},
            model={"name": "conv", "widths": [8, 8, 16]},
            growth__every_epochs=2,
            pruning={"method": "hebbian", "every_epochs": 3},
            training={"num_epochs": 6, "batch_size": 64},
        )
    )[-1]
    assert last.metrics["test/accuracy"] > 0.6  # chance is 0.1


def test_measuring_strengths_is_counted_as_one_weight_gradient_each_time():
    still = {"growth": {"method": "none"}, "training": {"num_epochs": 1, "batch_size": 50}}
    measured, unmeasured = (
        Training(config(**still, pruning={"method": method, "update_interval": 3, "start_epoch": 1}))
        for method in ("hebbian", "random")
    )
    told = [list(training)[-1].metrics["cost/train_flops"] for training in (measured, unmeasured)]
    flops = cost.forward_flops_by_weight(measured.model, measured.data.image_shape)
    layers = models.sparse_layers(measured.model).values()
    # Six batches of 50 make a measurement at steps 0 and 3.
    assert told[0] - told[1] == 2 * 50 * sum(flops[id(layer.weight)] for layer in layers)
