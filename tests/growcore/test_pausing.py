"""Pausing in the middle of an epoch and going on from the disk, bit for bit."""

from __future__ import annotations

import dataclasses
import functools
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from growcore.config import TrialConfig
from growcore.diagnostics import FindingKind, Severity
from growcore.edits.reports import EditRecord, LayerState
from growcore.networks import cost, models
from growcore.training import Report, Training, TrialFailed, checkpoint
from growcore.training import loop as training_module

STEPS = 4  # of an epoch: batches of 32, 32, 32 and 4 images
EPOCHS = 3


class Dropping(nn.Module):
    """Draws from torch's own generator at every training step."""

    def __init__(self, config: Any, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, config.widths[0])
        self.out = nn.Linear(config.widths[0], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.dropout(self.hidden(x.flatten(1)).relu(), 0.4, self.training))


MODELS = {"dropping": Dropping}  # found by `imports`

# What each configuration adds to what a pause must not lose.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "dropout": {"model": {"name": "dropping", "widths": [5]}},
    "augmentation": {"data__crop_padding": 1, "data__flip": True, "optimizer__name": "adamw"},
    "batch statistics and growth": {
        "model__normalization": "batch",
        "growth": {"method": "tiny", "num_neurons": 2, "statistics_batches": 1, "line_search_batches": 1},
    },
    # An interval that is no divisor of an epoch's steps: some pauses fall between two measurements.
    "strengths of activity": {
        "model": {"name": "conv", "widths": [2, 3]},
        "pruning": {"method": "hebbian", "k1": 0.5, "k2": 0.8, "update_interval": 3},
    },
    "strengths of gradients": {
        "pruning": {"method": "rigl", "density": 0.5, "update_interval": 3},
        "optimizer__schedule": "constant",
    },
    "edits of two epochs in one report": {
        "growth": {
            "method": "random",
            "where": "round_robin",
            "num_neurons": 1,
            "start_epoch": 0,
            "every_epochs": 1,
            "end_fraction": 1.0,
        },
        "pruning": {"method": "random", "every_epochs": 1, "k1": 0.5, "k2": 0.8, "end_fraction": 1.0},
        "training__report_every_epochs": 2,
    },
    "plateau": {
        "training__num_epochs": 6,
        "training__patience": 2,
        "training__min_improvement": 0.9,
        "growth": {"method": "random", "num_neurons": 1, "end_fraction": 0.2},
    },
    "findings of the preflight": {"model__init_gain": 1e-4, "training__report_every_epochs": 2},
}


def config(**changes: Any) -> TrialConfig:
    """A tiny perceptron; dotted keys change it."""
    values: dict[str, Any] = {
        "data": {"name": "synthetic", "num_train": 100},
        "model": {"name": "mlp", "widths": [4, 3]},
        "growth": {"method": "none"},
        "pruning": {"method": "none"},
        "optimizer": {"lr": 0.1},
        "training": {"num_epochs": EPOCHS, "batch_size": 32},
        "imports": [__name__],
    }
    for key, value in changes.items():
        group, _, name = key.partition("__")
        values[group] = {**values[group], name: value} if name else value
    return TrialConfig.from_dict(values)


@functools.cache
def uninterrupted(name: str) -> tuple[Training, list[Report]]:
    training = Training(config(**CONFIGURATIONS[name]))
    return training, list(training)


def after_step(training: Training, step: int, act: Callable[[], object]) -> None:
    """Do something at the end of one optimizer step, as if it came from outside."""

    def hook(*_: object) -> None:
        if training.step + 1 == step:  # the step that ends is counted a moment later
            act()

    training.optimizer.register_step_post_hook(hook)


def reloaded(training: Training, folder: Path, setting: TrialConfig | None = None) -> Training:
    """A new training that goes on from a checkpoint of this one."""
    fresh = Training(setting or training.config)
    checkpoint.load(checkpoint.save(folder, training), fresh)
    torch.rand(7)  # what happens in between elsewhere must not matter
    return fresh


def interrupted(setting: TrialConfig, folder: Path, steps: Sequence[int]) -> tuple[Training, list[Report]]:
    """A training that is paused after each of these steps, and all its reports."""
    training, told = Training(setting), []
    for step in steps:
        after_step(training, step, training.pause)
        told += list(training)
        assert training.paused
        assert training.step == step
        training = reloaded(training, folder)
    return training, told + list(training)


def without_time(reports: Sequence[Report]) -> list[Report]:
    return [
        dataclasses.replace(
            report, metrics={k: v for k, v in report.metrics.items() if k != "cost/wall_seconds"}
        )
        for report in reports
    ]


def assert_same(a: tuple[Training, list[Report]], b: tuple[Training, list[Report]]) -> None:
    (first, told), (second, expected) = a, b
    assert without_time(told) == without_time(expected)
    assert first.finished
    assert not first.paused
    for (name, x), (_, y) in zip(
        first.model.state_dict().items(), second.model.state_dict().items(), strict=True
    ):
        assert torch.equal(x, y), name
    assert torch.equal(first.generator.get_state(), second.generator.get_state())


# Where a pause may come


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([1], id="the first step"),
        pytest.param([STEPS + 2], id="the middle of an epoch"),
        pytest.param([STEPS - 1], id="before an epoch's last step"),
        pytest.param([STEPS], id="an epoch's last step"),
        pytest.param([STEPS + 1, STEPS + 3], id="twice in an epoch"),
        pytest.param([STEPS * EPOCHS], id="the last step of all"),
        pytest.param(range(1, STEPS * EPOCHS + 1), id="every step"),
    ],
)
def test_a_training_paused_at_a_step_goes_on_bit_for_bit(tmp_path, steps):
    name = "batch statistics and growth"
    setting = config(**CONFIGURATIONS[name])
    assert_same(interrupted(setting, tmp_path, steps), uninterrupted(name))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_whatever_a_training_keeps_a_pause_after_every_step_changes_no_bit(tmp_path, name):
    whole = uninterrupted(name)
    steps = range(1, whole[0].step + 1)
    assert_same(interrupted(config(**CONFIGURATIONS[name]), tmp_path, steps), whole)


def test_the_configurations_above_have_what_a_pause_could_lose():
    told = {name: uninterrupted(name)[1] for name in CONFIGURATIONS}
    kinds = {name: {edit.kind for report in told[name] for edit in report.edits} for name in told}
    assert "grow" in kinds["batch statistics and growth"]
    assert kinds["strengths of activity"] == kinds["strengths of gradients"] == {"prune"}
    first, _ = told["edits of two epochs in one report"]
    assert {edit.epoch for edit in first.edits} == {0, 1}
    assert {edit.layer for edit in first.edits if edit.kind == "grow"} == {"fc1", "fc2"}
    assert told["findings of the preflight"][0].findings
    assert [report.epoch for report in told["plateau"]] == [1, 2, 3, 4]  # of 6; growth begins the count anew


@pytest.mark.parametrize("num_reports", [1, 2])
@pytest.mark.parametrize("name", ["batch statistics and growth", "plateau"])
def test_a_training_paused_between_two_epochs_goes_on_bit_for_bit(tmp_path, name, num_reports):
    training = Training(config(**CONFIGURATIONS[name]))
    reports = iter(training)
    told = [next(reports) for _ in range(num_reports)]
    training.pause()
    assert list(reports) == []
    assert training.paused
    assert training.step == STEPS * num_reports
    second = reloaded(training, tmp_path)
    assert_same((second, told + list(second)), uninterrupted(name))


def paused_by(patch: pytest.MonkeyPatch, owner: Any, name: str, training: Training) -> None:
    """Let a pause come while a function runs."""
    function = getattr(owner, name)

    def wrapped(*args: Any) -> Any:
        training.pause()
        return function(*args)

    patch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("name", ["edits of two epochs in one report", "findings of the preflight"])
@pytest.mark.parametrize("moment", ["before iterating", "preflight", "edit"])
def test_a_pause_before_the_first_step_repeats_no_edit_and_loses_no_record(
    tmp_path, monkeypatch, name, moment
):
    training = Training(config(**CONFIGURATIONS[name]))
    with monkeypatch.context() as patch:
        if moment == "before iterating":
            training.pause()
        elif moment == "preflight":
            paused_by(patch, training_module, "before_training", training)
        else:
            paused_by(patch, training.editor, "edit", training)
        assert list(training) == []
    assert training.paused
    assert training.step == 0
    second = reloaded(training, tmp_path)
    assert_same((second, list(second)), uninterrupted(name))


def test_edits_between_two_epochs_are_made_once_though_a_pause_comes_meanwhile(tmp_path, monkeypatch):
    name = "batch statistics and growth"
    training = Training(config(**CONFIGURATIONS[name]))
    reports = iter(training)
    told = [next(reports)]
    with monkeypatch.context() as patch:
        paused_by(patch, training.editor, "edit", training)
        assert list(reports) == []
    assert training.step == STEPS
    second = reloaded(training, tmp_path)
    assert models.widths(second.model) == models.widths(training.model) != {"fc1": 4, "fc2": 3}
    assert_same((second, told + list(second)), uninterrupted(name))


def test_a_report_that_is_being_made_when_a_pause_comes_is_given(tmp_path, monkeypatch):
    name = "batch statistics and growth"
    training = Training(config(**CONFIGURATIONS[name]))
    with monkeypatch.context() as patch:
        paused_by(patch, training_module, "evaluate", training)
        told = list(training)
    assert [report.epoch for report in told] == [1]
    assert training.paused
    second = reloaded(training, tmp_path)
    assert_same((second, told + list(second)), uninterrupted(name))


def test_a_pause_in_the_last_report_comes_too_late():
    training = Training(config(training__num_epochs=1))
    reports = iter(training)
    assert next(reports).finished
    training.pause()
    assert list(reports) == []
    assert not training.paused


# Who may ask


def long_epoch() -> Training:
    return Training(config(data__num_train=1000, training__batch_size=5))


def test_a_pause_from_a_signal_handler_ends_the_iteration_after_that_step():
    training = long_epoch()
    before = signal.signal(signal.SIGUSR1, lambda *_: training.pause())
    try:
        after_step(training, 3, lambda: signal.raise_signal(signal.SIGUSR1))
        assert list(training) == []
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert training.paused
    assert training.step == 3


def test_a_pause_from_another_thread_ends_the_iteration_within_a_step():
    training = long_epoch()
    begun = threading.Event()
    seen = []

    def ask() -> None:
        begun.wait()
        training.pause()
        seen.append(training.step)

    thread = threading.Thread(target=ask)
    thread.start()
    after_step(training, 3, begun.set)
    assert list(training) == []
    thread.join()
    assert training.paused
    assert 3 <= training.step <= seen[0] + 1


def test_a_paused_training_does_not_go_on():
    training = Training(config())
    after_step(training, 2, training.pause)
    assert list(training) == []
    assert list(training) == []
    assert training.step == 2


def test_a_pause_before_a_state_is_loaded_holds_after_it(tmp_path):
    first = Training(config())
    after_step(first, 2, first.pause)
    assert list(first) == []
    second = Training(config())
    second.pause()
    checkpoint.load(checkpoint.save(tmp_path, first), second)
    assert list(second) == []
    assert second.paused
    third = reloaded(second, tmp_path)
    assert third.step == 2
    assert [report.step for report in third] == [STEPS, 2 * STEPS, 3 * STEPS]


# What is counted


def test_the_seconds_before_a_pause_count(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(training_module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def ticking(training: Training) -> Training:
        training.optimizer.register_step_post_hook(lambda *_: clock.__setitem__(0, clock[0] + 1))
        return training

    first = ticking(Training(config()))
    after_step(first, 2, first.pause)
    assert list(first) == []
    clock[0] += 100  # nobody trains
    told = list(ticking(reloaded(first, tmp_path)))
    assert [report.metrics["cost/wall_seconds"] for report in told] == [4, 8, 12]


def test_the_flops_before_a_pause_are_in_the_manifest(tmp_path):
    training = Training(config())
    after_step(training, 2, training.pause)
    assert list(training) == []
    per_image = cost.measure(training.model, training.data.image_shape).training_flops
    manifest = checkpoint.read_manifest(checkpoint.save(tmp_path, training))
    assert manifest["train_flops"] == 64 * per_image
    assert (manifest["step"], manifest["epoch"]) == (2, 0)


def test_under_another_batch_size_an_epoch_goes_on_with_images_not_trained_yet(tmp_path):
    pruning = {"method": "hebbian", "update_interval": 1}
    first = Training(config(pruning=pruning))
    after_step(first, 2, first.pause)
    assert list(first) == []  # 64 of 100 images
    second = reloaded(first, tmp_path, config(pruning=pruning, training__batch_size=20))
    report = next(iter(second))
    assert (report.epoch, report.step) == (1, 3)  # the fifth batch of 20 is the first that is all new
    per_image = cost.measure(second.model, second.data.image_shape).training_flops
    flops = cost.forward_flops_by_weight(second.model, second.data.image_shape)
    per_image += sum(flops[id(layer.weight)] for layer in models.sparse_layers(second.model).values())
    assert report.metrics["cost/train_flops"] == 84 * per_image


def test_a_loss_that_is_not_finite_is_told_as_without_a_pause(tmp_path):
    setting = config(optimizer={"lr": 1e30, "momentum": 0.0}, model__activation="identity")
    with pytest.raises(TrialFailed, match="the training loss became") as expected:
        list(Training(setting))
    with pytest.raises(TrialFailed) as told:
        interrupted(setting, tmp_path, [2])
    assert str(told.value) == str(expected.value)


# What comes back from plain values


def test_findings_and_edits_come_back_as_what_they_were(tmp_path):
    training, told = interrupted(config(**CONFIGURATIONS["findings of the preflight"]), tmp_path, [2])
    assert not training.paused
    for finding in told[0].findings:
        assert isinstance(finding.severity, Severity)
        assert isinstance(finding.kind, FindingKind)
    _, told = interrupted(config(**CONFIGURATIONS["edits of two epochs in one report"]), tmp_path, [2])
    for edit in told[0].edits:
        assert isinstance(edit, EditRecord)
        assert isinstance(edit.before, LayerState)
        assert isinstance(edit.after, LayerState)
