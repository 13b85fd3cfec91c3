"""Ending on a plateau, and going on from a checkpoint under changed values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from growcore.config import TrainingConfig, TrialConfig
from growcore.networks import models
from growcore.training import Report, Training, checkpoint
from growcore.training.plateau import Plateau

NUM_EPOCHS = 6


def config(**changes: Any) -> TrialConfig:
    """Dotted keys change it."""
    values: dict[str, Any] = {
        "data": {"name": "synthetic", "num_train": 200},
        "model": {"name": "conv", "widths": [3, 4]},
        "growth": {"method": "random", "every_epochs": 1, "num_neurons": 3, "line_search_batches": 1},
        "optimizer": {"lr": 0.05},
        "training": {"num_epochs": NUM_EPOCHS, "batch_size": 64},
    }
    for key, value in changes.items():
        group, _, name = key.partition("__")
        values[group] = {**values[group], name: value} if name else value
    return TrialConfig.from_dict(values)


def train(training: Training, num_reports: int) -> list[Report]:
    found = []
    for report in training:
        found.append(report)
        if len(found) == num_reports:
            break
    return found


# Plateau


def count(accuracies: list[float], edits: set[int] = frozenset(), **options: Any) -> int | None:
    """Reports until training ends; None where it does not."""
    plateau = Plateau(TrainingConfig(**options))
    for index, accuracy in enumerate(accuracies):
        plateau.add(accuracy, index in edits)
        if plateau.reached:
            return index + 1
    return None


@pytest.mark.parametrize(
    ("accuracies", "options", "expected"),
    [
        ([0.5] * 9, {}, None),  # patience 0
        ([0.5] * 9, {"patience": 3}, 4),
        ([0.5, 0.6, 0.6, 0.5, 0.7, 0.7, 0.6], {"patience": 2}, 4),
        ([0.5, 0.6, 0.6, 0.7, 0.7, 0.6], {"patience": 2}, 6),
        ([0.50, 0.51, 0.52, 0.53], {"patience": 2, "min_improvement": 0.05}, 3),
        ([0.50, 0.53, 0.56, 0.59], {"patience": 2, "min_improvement": 0.05}, None),  # 0.56 is 0.06 better
    ],
)
def test_training_ends_after_so_many_reports_without_a_better_accuracy(accuracies, options, expected):
    assert count(accuracies, **options) == expected


def test_an_edit_begins_a_new_count():
    # It falls by growing, and is compared with the value after the growth from then on.
    assert count([0.5, 0.5, 0.3, 0.4, 0.4, 0.4], patience=2) == 3
    assert count([0.5, 0.5, 0.3, 0.4, 0.4, 0.4], {2}, patience=2) == 6


def test_a_training_on_a_plateau_ends_with_a_finished_report():
    told = list(
        Training(config(growth={"method": "none"}, training__patience=2, training__min_improvement=0.9))
    )
    assert [report.finished for report in told] == [False, False, True]
    assert ["test/accuracy" in report.metrics for report in told] == [False, False, True]


def test_a_training_that_ended_on_a_plateau_has_ended_after_loading_too(tmp_path):
    setting = config(growth={"method": "none"}, training__patience=2, training__min_improvement=0.9)
    first = Training(setting)
    list(first)
    second = Training(setting)
    checkpoint.load(checkpoint.save(tmp_path, first), second)
    assert second.finished
    assert list(second) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training__patience": -1}, r"training.patience must not be negative; got training.patience=-1"),
        ({"training__min_improvement": 1.0}, r"training.min_improvement must lie in \[0, 1\)"),
    ],
)
def test_a_value_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


# Changed values


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_new_learning_rate_is_where_its_schedule_would_be(tmp_path, name, schedule):
    optimizer = {"name": name, "schedule": schedule}
    first = Training(config(optimizer={**optimizer, "lr": 0.04}))
    train(first, 2)
    path = checkpoint.save(tmp_path, first)
    second = Training(config(optimizer={**optimizer, "lr": 0.01, "momentum": 0.5, "weight_decay": 0.1}))
    checkpoint.load(path, second)
    rates = []
    for _ in second:
        (group,) = second.optimizer.param_groups
        rates.append(group["lr"])
        assert group["weight_decay"] == 0.1
        assert (group["momentum"] if name == "sgd" else group["betas"][0]) == 0.5
    share = (
        (lambda epoch: (1 + math.cos(math.pi * epoch / NUM_EPOCHS)) / 2)
        if schedule == "cosine"
        else lambda _: 1
    )
    assert rates == pytest.approx([0.01 * share(epoch) for epoch in (3, 4, 5, 6)], abs=1e-12)


@pytest.mark.parametrize(("mine", "others"), [([2, 2], [8, 9]), ([8, 9], [2, 2])])
def test_a_training_takes_over_a_network_of_another_size_and_goes_on_with_it(tmp_path, mine, others):
    donor = Training(config(model__widths=others, optimizer__lr=0.04))
    train(donor, 2)
    path = checkpoint.save(tmp_path, donor)
    own = Training(config(model__widths=mine))
    train(own, 1)
    # The donor's configuration with another learning rate, batch size and growth.
    changed = config(model__widths=others, optimizer__lr=0.02, training__batch_size=32, growth__num_neurons=1)
    taken = Training(changed)
    checkpoint.load(path, taken)
    assert models.widths(taken.model) == models.widths(donor.model) != models.widths(own.model)
    for a, b in zip(taken.model.state_dict().values(), donor.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert taken.optimizer.param_groups[0]["lr"] == pytest.approx(donor.optimizer.param_groups[0]["lr"] / 2)
    steps = taken.step
    (report,) = train(taken, 1)
    assert report.epoch == 3
    assert report.step - steps == math.ceil(len(taken.data.train) / 32)
    grown = [edit for edit in report.edits if edit.kind == "grow"]
    assert [edit.number for edit in grown] == [1] * len(grown)
    assert grown
    before = models.widths(donor.model)
    assert all(width == before[key] + 1 for key, width in models.widths(taken.model).items())


def test_values_that_are_the_same_change_nothing(tmp_path):
    first = Training(config())
    train(first, 2)
    second = Training(config())
    checkpoint.load(checkpoint.save(tmp_path, first), second)
    assert second.optimizer.param_groups[0]["lr"] == first.optimizer.param_groups[0]["lr"]
    assert second.schedule.state_dict() == first.schedule.state_dict()


def test_another_optimizer_is_refused(tmp_path):
    first = Training(config())
    train(first, 1)
    path = checkpoint.save(tmp_path, first)
    with pytest.raises(ValueError, match=r"another optimizer.name: the checkpoint has sgd, .* adam. Set"):
        checkpoint.load(path, Training(config(optimizer={"name": "adam"})))
