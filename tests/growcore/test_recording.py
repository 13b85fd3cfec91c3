"""What trainings record is true: each figure against a plain loop, a hand count or the sum of its parts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from growcore.config import DataConfig, TrialConfig
from growcore.data.sets import RawData
from growcore.edits import editor as editing
from growcore.edits.line_search import mean_loss
from growcore.networks import cost, models
from growcore.training import Training
from growcore.training.evaluation import evaluate

GROWTH = {
    "method": "tiny",
    "num_neurons": 2,
    "statistics_batches": 3,
    "line_search_batches": 2,
    "start_epoch": 1,
    "every_epochs": 1,
    "end_fraction": 1.0,
}
REMOVAL = {"method": "none", "remove_dead": True, "start_epoch": 1, "every_epochs": 1, "end_fraction": 1.0}


def config(**parts: Any) -> TrialConfig:
    values: dict[str, Any] = {
        "data": {"name": "digits", "num_train": 200},
        "model": {"name": "mlp", "widths": [6, 5]},
        "growth": {"method": "none"},
        "pruning": {"method": "none"},
        "optimizer": {"lr": 0.1},
        "training": {"num_epochs": 2, "batch_size": 25},
        "imports": [__name__],
    }
    return TrialConfig.from_dict({**values, **parts})


def one_image(config: DataConfig) -> RawData:
    """One image of one class, again and again: any batch stands for every other."""
    generator = torch.Generator().manual_seed(0)
    x_NCHW = torch.randint(0, 256, (1, 1, 8, 8), generator=generator, dtype=torch.uint8).repeat(400, 1, 1, 1)
    return RawData(x_NCHW, torch.full((400,), 3), None, None, tuple("0123456789"))


DATA_SETS = {"one": one_image}  # found by `imports`


# Evaluation: a plain loop, one image after another


def by_hand(training: Training, part: Any) -> dict[str, float]:
    """Loss and accuracies of the model over a part."""
    losses, hits = [], []
    training.model.eval()
    for x_CHW, label in zip(part.x_NCHW, part.y_N.tolist(), strict=True):
        with torch.no_grad():
            probabilities_K = training.model(training.data.normalise(x_CHW[None]))[0].double().softmax(0)
        losses.append(-float(probabilities_K[label].log()))
        hits.append((label, int(probabilities_K.argmax()) == label))
    figures = {"loss": sum(losses) / len(losses), "accuracy": sum(hit for _, hit in hits) / len(hits)}
    for label in {label for label, _ in hits}:
        of_class = [hit for each, hit in hits if each == label]
        figures[f"accuracy/{training.data.class_names[label]}"] = sum(of_class) / len(of_class)
    return figures


def test_figures_of_validation_and_test_equal_a_plain_loop_over_that_part():
    training = Training(config(model={"name": "conv", "widths": [3, 3, 4], "normalization": "batch"}))
    for report in training:
        parts = {"val": training.data.val} | ({"test": training.data.test} if report.finished else {})
        for prefix, part in parts.items():
            reported = {k: v for k, v in report.metrics.items() if k.startswith(f"{prefix}/")}
            expected = {f"{prefix}/{k}": v for k, v in by_hand(training, part).items()}
            assert reported == pytest.approx(expected, abs=1e-5)
        assert report.finished == any(key.startswith("test/") for key in report.metrics)
    # The parts are told apart by what is measured on them.
    figures = [by_hand(training, part)["loss"] for part in parts.values()]
    figures.append(by_hand(training, training.data.train)["loss"])
    assert len({round(figure, 5) for figure in figures}) == 3


def test_the_training_loss_is_the_mean_over_images_as_they_were_trained_on():
    # 200 images in batches of 64 leave a batch of 8.
    training = Training(config(training={"num_epochs": 1, "batch_size": 64}))
    losses: list[float] = []
    original = training._train_step

    def step(x_NCHW: Tensor, y_N: Tensor) -> Tensor:
        with torch.no_grad():
            losses.extend(-training.model(x_NCHW).double().log_softmax(1)[range(len(y_N)), y_N])
        return original(x_NCHW, y_N)

    training._train_step = step
    (report,) = list(training)
    assert len(losses) == 200
    assert report.metrics["train/loss"] == pytest.approx(float(sum(losses)) / 200, abs=1e-5)


@pytest.mark.parametrize("num_silenced", [0, 2, 5])
def test_dead_fractions_are_the_neurons_silenced_by_hand(num_silenced):
    training = Training(config(model={"name": "mlp", "widths": [6, 5], "activation": "tanh"}))
    silence(training.model, "fc2", num_silenced)
    measured = evaluate(training.model, training.data, training.data.val, "val")
    assert measured["activity/dead_fraction/fc1"] == 0
    assert measured["activity/dead_fraction/fc2"] == pytest.approx(num_silenced / 5)


def silence(model: nn.Module, layer: str, num: int) -> None:
    """Let the first neurons of a layer give 0, whatever comes."""
    (producer,) = models.grow_pairs(model)[layer].producers
    with torch.no_grad():
        producer.weight[:num] = 0
        producer.bias[:num] = 0


# Edits: which images they look at


def watch(monkeypatch: pytest.MonkeyPatch, name: str, seen: Callable[..., None]) -> None:
    """Tell of every call that the editor makes of a function."""
    original = getattr(editing, name)

    def told(*args: Any, **kwargs: Any) -> Any:
        seen(*args)
        return original(*args, **kwargs)

    monkeypatch.setattr(editing, name, told)


@pytest.mark.parametrize("method", ["tiny", "gradmax"])
def test_the_line_search_looks_at_training_images_that_gave_no_statistics(monkeypatch, method):
    statistics: list[list[Any]] = []
    search: list[list[Any]] = []
    watch(monkeypatch, "observe_growth", lambda model, pairs, batches, *rest: statistics.append(batches))
    watch(monkeypatch, "line_search", lambda model, edits, batches, *rest: search.append(batches))
    training = Training(
        config(growth={**GROWTH, "method": method}, training={"num_epochs": 3, "batch_size": 25})
    )
    list(training)
    assert len(statistics) == len(search) == 2
    of_training = images([(training.data.normalise(training.data.train.x_NCHW), None)])
    for observed, searched in zip(statistics, search, strict=True):
        assert (len(observed), len(searched)) == (3, 2)
        assert not images(observed) & images(searched)
        assert images(observed) | images(searched) <= of_training


def images(batches: list[Any]) -> set[bytes]:
    return {x_CHW.numpy().tobytes() for x_NCHW, _ in batches for x_CHW in x_NCHW}


# Edits: what they promise and what they bring


@pytest.mark.parametrize("num_neurons", [1, 3])
def test_what_is_predicted_is_what_comes_as_the_largest_factor_tends_to_0(num_neurons):
    off = []
    for factor in (0.4, 0.1):
        growth = {**GROWTH, "num_neurons": num_neurons, "max_scaling_factor": factor, "start_epoch": 0}
        training = Training(
            config(
                data={"name": "one"},
                model={"name": "mlp", "widths": [6, 5], "activation": "tanh"},
                growth={**growth, "normalization": "none", "end_fraction": 0.1},
                training={"num_epochs": 1, "batch_size": 25},
            )
        )
        (report,) = list(training)
        grown = [edit for edit in report.edits if edit.kind == "grow"]
        assert {edit.scaling_factor for edit in grown} == {factor}
        predicted = sum(edit.predicted_decrease for edit in grown)
        assert grown[0].realised_decrease > 0
        off.append(abs(predicted / grown[0].realised_decrease - 1))
        for edit in grown:
            assert report.metrics[f"growth/first_order_improvement/{edit.layer}"] == edit.predicted_decrease
        assert report.metrics["growth/realised_decrease"] == grown[0].realised_decrease
    assert off[1] < 0.02
    assert off[1] < off[0]


def test_what_was_realised_is_the_loss_before_less_the_loss_after(monkeypatch):
    batches: list[Any] = []
    watch(monkeypatch, "line_search", lambda model, edits, found, *rest: batches.extend(found))
    training = Training(config(growth=GROWTH))
    next(iter(training))
    before = copy.deepcopy(training.model)
    records, _ = training.editor.edit(training.model, training.optimizer, 1, training.step)
    expected = plain_loss(before, batches) - plain_loss(training.model, batches)
    assert {record.kind for record in records} == {"grow"}
    for record in records:
        assert record.realised_decrease == pytest.approx(expected, abs=1e-5)
        assert record.before.width == models.layer_width(before, record.layer)
        assert record.after.width == models.layer_width(training.model, record.layer)


def plain_loss(model: nn.Module, batches: list[Any]) -> float:
    """Mean over images, not over batches."""
    model.eval()
    with torch.no_grad():
        picked = [
            -float(model(x_CHW[None])[0].double().log_softmax(0)[y])
            for x_NCHW, y_N in batches
            for x_CHW, y in zip(x_NCHW, y_N.tolist(), strict=True)
        ]
    return sum(picked) / len(picked)


def test_the_loss_of_a_search_is_a_mean_over_images_of_batches_of_any_size():
    training = Training(config())
    x_NCHW = training.data.normalise(training.data.train.x_NCHW)
    batches = [(x_NCHW[:50], training.data.train.y_N[:50]), (x_NCHW[50:53], training.data.train.y_N[50:53])]
    assert mean_loss(training.model, batches) == pytest.approx(plain_loss(training.model, batches), abs=1e-5)


# Edits: what they cost


class Parts:
    """FLOPs of what the editor calls, by the name of the function."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flops: dict[str, int] = {}
        for name in ("observe_activity", "observe_growth", "line_search"):
            self._watch(monkeypatch, editing, name)
        self._watch(monkeypatch, editing.surgery, "apply")
        self._watch(monkeypatch, editing.cost, "measure")
        monkeypatch.setattr(editing.checks, "measure", lambda *args: [])  # signals are looked at uncounted

    def _watch(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        original = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            result, flops = cost.executed_flops(lambda: original(*args, **kwargs))
            self.flops[name] = self.flops.get(name, 0) + flops
            return result

        monkeypatch.setattr(module, name, counted)


@pytest.mark.parametrize("growth", [GROWTH, {"method": "none"}], ids=["removal and growth", "removal"])
def test_the_flops_of_an_edit_are_the_sum_of_its_parts(monkeypatch, growth):
    training = Training(config(growth=growth, pruning=REMOVAL))
    next(iter(training))
    silence(training.model, "fc1", 2)
    forward = cost.measure(training.model, training.data.image_shape).forward_flops
    monkeypatch.setattr(editing.checks, "edit_signal", lambda *args: {})
    parts = Parts(monkeypatch)
    flops_before = training.train_flops
    begun = training._begin_epoch()
    kinds = {edit.kind for edit in training._edits}
    assert "remove" in kinds
    assert ("grow" in kinds) == (growth is GROWTH)
    batches = training.config.growth.statistics_batches
    assert parts.flops["observe_activity"] == 25 * min(batches, 8) * forward
    # Outside of events, `measure` looks at the new size once more.
    own = sum(parts.flops.values()) - begun.training_flops // 3
    counted = training.train_flops - flops_before
    assert counted == pytest.approx(own, abs=begun.training_flops)
    assert counted >= sum(parts.flops[name] for name in parts.flops if name != "measure")
    if growth is GROWTH:
        assert parts.flops["line_search"] > 2 * 25 * forward
        assert parts.flops["observe_growth"] > 3 * 25 * 2 * forward


def test_an_epoch_costs_its_images_and_the_edits_before_it(monkeypatch):
    training = Training(config(growth=GROWTH, pruning=REMOVAL, training={"num_epochs": 3, "batch_size": 25}))
    edits: list[int] = []
    original = training.editor.edit

    def edit(*args: Any) -> Any:
        records, flops = original(*args)
        edits.append(flops)
        return records, flops

    training.editor.edit = edit
    before = 0.0
    for report in training:
        per_image = cost.measure(training.model, training.data.image_shape).training_flops
        assert report.metrics["cost/train_flops"] - before == 200 * per_image + edits[-1]
        before = report.metrics["cost/train_flops"]
    assert edits[0] == 0
    assert min(edits[1:]) > 0


# The clock


def test_seconds_are_those_of_training_edits_estimates_and_evaluation(monkeypatch):
    from growcore.training import loop

    clock = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock[0])

    def lasting(owner: Any, name: str, seconds: float) -> None:
        original = getattr(owner, name)

        def last(*args: Any, **kwargs: Any) -> Any:
            clock[0] += seconds
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, last)

    training = Training(config(growth=GROWTH))
    lasting(loop, "before_training", 10_000)
    lasting(loop, "evaluate", 1000)
    lasting(training.editor, "edit", 100)
    lasting(training.editor.upkeep, "refresh", 1)
    told = []
    for report in training:
        told.append(report.metrics["cost/wall_seconds"])
        clock[0] += 1e6  # nobody trains
    # Two epochs of an edit each; the second event of growth asks for fresh statistics too.
    assert told == [11_101, 11_101 + 2102]
