"""What is reported after an edit is what the network can: running statistics are those of its weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from growcore.config import TrialConfig
from growcore.networks.running_statistics import normalisations, reestimate
from growcore.training import Training, checkpoint

BATCH_NORM = {"name": "conv", "widths": [4, 4, 4], "normalization": "batch"}
PRUNED = {"method": "hebbian", "strength": "magnitude", "scope": "layer", "k1": 0.08, "k2": 0.1}
# What leaves channels nearly constant, each of it once; later epochs follow without an edit.
EDITS: dict[str, dict[str, Any]] = {
    "pruning": {"pruning": {**PRUNED, "start_epoch": 1, "every_epochs": 9}},
    "exchange": {"pruning": {"method": "hebbian_exchange", "density": 0.1, "start_epoch": 1}},
    "growth from zeros": {"growth": {"method": "zeros", "num_neurons": 3, "start_epoch": 1}},
    "removal": {
        "model": {"name": "mlp", "widths": [12, 12], "normalization": "batch"},
        "pruning": {"method": "none", "remove_dead": True, "start_epoch": 1, "every_epochs": 1},
    },
    "both": {"growth": {"method": "tiny", "num_neurons": 2}, "pruning": PRUNED},
}


def config(**parts: Any) -> TrialConfig:
    values: dict[str, Any] = {
        "data": {"name": "digits", "num_train": 200},
        "model": BATCH_NORM,
        "growth": {"method": "none"},
        "pruning": {"method": "none"},
        "optimizer": {"lr": 0.1},
        "training": {"num_epochs": 4, "batch_size": 40},
        "seed": 1,
    }
    return TrialConfig.from_dict({**values, **parts})


class Net(nn.Module):
    """Two normalised layers, the first used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3, padding=1)
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.5)
        self.last = nn.BatchNorm1d(64, momentum=None)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.norm(self.first(x))
        return self.last(self.drop(x).flatten(1))


def accuracy(model: nn.Module, training: Training) -> float:
    """By batch statistics over the training images, an image of the validation part after another."""
    model.eval()
    part = training.data.val
    with torch.no_grad():
        logits_NK = torch.cat([model(training.data.normalise(x[None])) for x in part.x_NCHW])
    return float((logits_NK.argmax(1) == part.y_N).float().mean())


def by_hand(training: Training) -> nn.Module:
    """A copy with every running statistic averaged over a few batches of training images."""
    model = copy.deepcopy(training.model).eval()
    for norm in normalisations(model):
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for x_NCHW in training.data.train.x_NCHW.split(100):
            model(training.data.normalise(x_NCHW))
    return model


def test_each_layer_keeps_the_statistics_of_what_it_sees_and_nothing_else_changes():
    torch.manual_seed(0)
    model, x_NCHW = Net(), torch.randn(50, 1, 8, 8)
    model(x_NCHW + 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[Tensor] = []
    model.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    state = torch.get_rng_state()
    reestimate(model, x_NCHW)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert (model.norm.momentum, model.last.momentum) == (0.1, None)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{norm}.running_{what}" for norm in ("norm", "last") for what in ("mean", "var")}
    # The layer that is called twice sees both calls alike.
    expected = sum(value.mean() for value in seen) / 2
    assert torch.allclose(model.norm.running_mean, expected, atol=1e-6)
    assert torch.allclose(model.norm.running_var, sum(value.var() for value in seen) / 2, atol=1e-6)


def test_evaluation_repeats_what_ran_in_the_estimate():
    torch.manual_seed(0)
    model, x_NCHW = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), torch.randn(50, 1, 8, 8)
    reestimate(model, x_NCHW)
    assert torch.allclose(model.eval()(x_NCHW), model.train()(x_NCHW), rtol=1e-2)


@pytest.mark.parametrize("name", EDITS)
def test_every_report_from_the_first_edit_on_is_what_the_network_can(name):
    training = Training(config(**EDITS[name]))
    is_edited = False
    for report in training:
        is_edited = is_edited or any(edit.kind != "skip" for edit in report.edits)
        if is_edited:
            assert report.metrics["val/accuracy"] == pytest.approx(
                accuracy(by_hand(training), training), abs=0.01
            )
            # The network as it is kept and exported says the same.
            assert report.metrics["val/accuracy"] == pytest.approx(accuracy(training.model, training))
        if name == "removal":
            silence(training, report.epoch)
    assert is_edited


def silence(training: Training, index: int) -> None:
    """Let a neuron of the first layer give 0, so that it is removed before the next epoch."""
    with torch.no_grad():
        for value, parameter in zip((0.0, -1.0), normalisations(training.model)[0].parameters(), strict=True):
            parameter[index] = value


def test_stale_statistics_would_have_been_seen():
    """Guards the law above: the same training without its upkeep reports something else."""
    training = Training(config(**EDITS["pruning"]))
    training.editor.upkeep.refresh = lambda model, step: 0
    lost = [abs(r.metrics["val/accuracy"] - accuracy(by_hand(training), training)) for r in training]
    assert max(lost) > 0.03


def test_a_pruning_leaves_no_stale_statistics_to_those_that_remove_and_grow(monkeypatch):
    from growcore.edits import editor as module

    both = {"pruning": {**PRUNED, "start_epoch": 1, "every_epochs": 1, "remove_dead": True}}
    growth = {"method": "tiny", "num_neurons": 1, "start_epoch": 1, "every_epochs": 1}
    training = Training(config(**both, growth=growth))
    looked: list[str] = []

    def watched(name: str) -> Any:
        original = getattr(module, name)

        def look(model: nn.Module, *args: Any) -> Any:
            fresh = by_hand(training)
            for ours, expected in zip(normalisations(model), normalisations(fresh), strict=True):
                assert torch.allclose(ours.running_mean, expected.running_mean, atol=0.1)
            looked.append(name)
            return original(model, *args)

        return look

    for name in ("observe_activity", "observe_growth"):
        monkeypatch.setattr(module, name, watched(name))
    reports = iter(training)
    next(reports), next(reports)
    assert looked == ["observe_activity", "observe_growth"]


@pytest.mark.parametrize(
    "parts",
    [{}, {"model": {**BATCH_NORM, "normalization": "none"}, **EDITS["pruning"]}],
    ids=["edit", "norm"],
)
def test_who_has_no_edit_or_no_running_statistics_pays_nothing(parts):
    training = Training(config(**parts))
    for _ in training:
        before = copy.deepcopy(training.model.state_dict())
        assert training.editor.upkeep.refresh(training.model, -1) == 0
        for name, value in training.model.state_dict().items():
            assert torch.equal(value, before[name])
    assert training.editor.upkeep.estimated_at is None


def test_the_estimate_is_counted_and_draws_nothing():
    training = Training(config(**EDITS["pruning"]))
    told = [training.train_flops for _ in training]
    plain = Training(config(**EDITS["pruning"]))
    plain.editor.upkeep.refresh = lambda model, step: 0
    free = [plain.train_flops for _ in plain]
    forward = training.data.train.x_NCHW.shape[0] * int(
        next(iter(Training(config()))).metrics["model/forward_flops"]
    )
    assert [a - b for a, b in zip(told, free, strict=True)] == [0, forward, 2 * forward, 3 * forward]
    # Statistics are all that differs: weights, and what is drawn for the next step, are the same.
    for a, b in zip(training.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(training.generator.get_state(), plain.generator.get_state())


@pytest.mark.parametrize("step", [5, 7, 12, 15])
def test_a_pause_anywhere_changes_no_bit(tmp_path, step):
    setting = config(**EDITS["pruning"])
    whole = Training(setting)
    expected = [without_time(report) for report in whole]
    training = Training(setting)
    training.optimizer.register_step_post_hook(
        lambda *_: training.pause() if training.step + 1 == step else None
    )
    told = [without_time(report) for report in training]
    resumed = Training(setting)
    checkpoint.load(checkpoint.save(tmp_path, training), resumed)
    told += [without_time(report) for report in resumed]
    assert told == expected
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def without_time(report: Any) -> dict[str, Any]:
    values: dict[str, Any] = report.to_dict()
    del values["metrics"]["cost/wall_seconds"]
    return values
