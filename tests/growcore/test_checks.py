"""Laws of the preflight in training and of the signal around edits."""

import copy
import itertools
import json
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from growcore import data
from growcore.config import Preflight, TrialConfig
from growcore.diagnostics import Severity, checks
from growcore.networks import models
from growcore.training import Training, checkpoint
from growcore.training.preflight import before_training
from growcore.training.report import Report, TrialFailed, TrialInfeasible

HOPELESS = {"widths": [16] * 8, "init_gain": 0.1}
DOUBTFUL = {"widths": [16] * 8, "init_gain": 0.6}  # vanishes by more than 1e3 and less than 1e10
SOUND = {"widths": [16] * 3}
GROWS = {"method": "tiny", "num_neurons": 2, "statistics_batches": 2, "line_search_batches": 1}


def config(model: dict, preflight: str = "warn", **groups: dict) -> TrialConfig:
    values = {
        "data": {"name": "synthetic", "num_train": 200, "crop_padding": 1, "flip": True},
        "model": {"name": "mlp", **model},
        "training": {"num_epochs": 3, "batch_size": 50},
        "preflight": preflight,
        **groups,
    }
    return TrialConfig.from_dict(values)


def network(setting: TrialConfig) -> tuple[torch.nn.Module, data.DataSet]:
    images = data.load(setting.data)
    return models.build(setting, images.image_shape, images.num_classes), images


def told(setting: TrialConfig) -> list[Report]:
    return list(Training(setting))


def without_preflight(report: Report) -> dict:
    values = report.to_dict()
    del values["findings"], values["metrics"]["cost/wall_seconds"]
    values["metrics"] = {k: v for k, v in values["metrics"].items() if not k.startswith("preflight/")}
    return values


@pytest.mark.parametrize("model", [DOUBTFUL, {**SOUND, "normalization": "batch"}])
def test_a_preflight_changes_nothing_of_a_training(model):
    grown = {"growth": GROWS, "pruning": {"method": "hebbian", "update_interval": 1}}
    checked, unchecked = (Training(config(model, policy, **grown)) for policy in ("warn", "off"))
    assert [without_preflight(r) for r in checked] == [without_preflight(r) for r in unchecked]
    for key, value in checked.model.state_dict().items():
        assert torch.equal(value, unchecked.model.state_dict()[key]), key


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), depth=st.integers(1, 5))
def test_a_check_draws_nothing_and_leaves_the_network_as_it_is(seed, depth):
    setting = TrialConfig.from_dict({**config({"widths": [4] * depth}).to_dict(), "seed": seed})
    model, images = network(setting)
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, second = (before_training(model, images, Preflight.warn) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_sound_network_gives_no_finding_and_its_signal_stands_in_the_first_report():
    first, *later = told(config(SOUND))
    assert first.findings == []
    for what, layer in itertools.product(
        ("output_rms", "gradient_rms", "blocked_fraction", "effective_rank"), ("fc1", "fc2", "fc3", "out")
    ):
        assert math.isfinite(first.metrics[f"preflight/{what}/{layer}"])
        assert all(f"preflight/{what}/{layer}" not in report.metrics for report in later)
    assert all(r.metrics["preflight/warnings"] == r.metrics["preflight/failures"] == 0 for r in later)


def test_findings_are_told_once_and_counted_in_every_report():
    first, *later = told(config(DOUBTFUL))
    assert {finding.severity for finding in first.findings} == {Severity.warn}
    assert all(report.findings == [] for report in later)
    for report in (first, *later):
        assert report.metrics["preflight/warnings"] == len(first.findings) > 0
        assert report.metrics["preflight/failures"] == 0


def test_findings_are_plain_and_name_layers_as_people_see_them():
    first, *_ = told(config(HOPELESS))
    assert json.loads(json.dumps(first.to_dict()))["findings"] == [
        {"severity": f.severity, "kind": f.kind, "layer": f.layer, "reason": f.reason, "fix": f.fix}
        for f in first.findings
    ]
    assert {f.layer for f in first.findings} <= {f"fc{i}" for i in range(1, 9)} | {"out"}
    assert all("layers." not in str(f) for f in first.findings)


def test_a_hopeless_network_ends_before_its_first_step_where_that_is_asked_for():
    training = Training(config(HOPELESS, "fail"))
    before = copy.deepcopy(training.model.state_dict())
    with pytest.raises(
        TrialInfeasible,
        match=r"^out: the variance of preactivations changes by a factor .* at each of 9 layers.*"
        r"Multiply the gain by about .*\(preflight=warn trains it all the same\.\)$",
    ) as caught:
        next(iter(training))
    assert isinstance(caught.value, TrialFailed)
    assert "\n" not in str(caught.value)
    assert training.step == training.train_flops == 0
    assert all(torch.equal(value, before[key]) for key, value in training.model.state_dict().items())


def test_the_fix_that_ends_a_trial_heals_it():
    with pytest.raises(TrialInfeasible) as caught:
        told(config(HOPELESS, "fail"))
    gain = float(re.search(r"Multiply the gain by about ([\d.]+)", str(caught.value)).group(1))
    healed = config({**HOPELESS, "init_gain": HOPELESS["init_gain"] * gain}, "fail")
    assert told(healed)[-1].finished


@pytest.mark.parametrize(("model", "policy"), [(HOPELESS, "warn"), (HOPELESS, "off"), (DOUBTFUL, "fail")])
def test_a_trial_goes_on_unless_it_is_hopeless_and_hopeless_ones_are_to_end(model, policy):
    assert told(config(model, policy))[-1].finished


def test_nothing_is_measured_where_preflight_is_off():
    for report in told(config(HOPELESS, "off")):
        assert report.findings == []
        assert not any(key.startswith("preflight/") for key in report.metrics)


def test_a_loss_that_breaks_down_is_blamed_on_what_was_found_before():
    exploding = {"widths": [16] * 12, "init_gain": 2.0}
    with pytest.raises(
        TrialFailed, match=r"became (nan|inf) in epoch 1.*; before training, warn: out: the var"
    ):
        told(config(exploding))
    with pytest.raises(
        TrialFailed, match=r"became (nan|inf) in epoch 1.*; optimizer.lr=0.05 may be too high$"
    ):
        told(config(exploding, "off"))


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_training_still_counts_what_was_found_before_its_first_step(tmp_path, stop_after):
    setting = config(DOUBTFUL, growth=GROWS)
    whole = [without_preflight(r) | {"metrics": counts(r)} for r in told(setting)]
    first = Training(setting)
    begun = list(itertools.islice(first, stop_after))
    second = Training(setting)
    checkpoint.load(checkpoint.save(tmp_path, first), second)
    resumed = list(second)
    assert all(report.findings == [] for report in resumed)
    assert [without_preflight(r) | {"metrics": counts(r)} for r in begun + resumed] == whole


def counts(report: Report) -> dict[str, float]:
    return {key: report.metrics[key] for key in checks.COUNTS}


def test_a_training_that_resumes_is_not_checked_again(tmp_path):
    # Training moved the weights: a check of them would not be one of the untrained network.
    training = Training(config(SOUND, "fail"))
    next(iter(training))
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.zero_()
    again = Training(config(SOUND, "fail"))
    checkpoint.load(checkpoint.save(tmp_path, training), again)
    assert list(again)[-1].finished


def test_a_check_needs_two_images_to_compare():
    setting = config(SOUND, data={"name": "synthetic", "num_train": 1})
    with pytest.raises(ValueError, match=r"at least 2; got 1. Raise data.num_train, or set preflight=off"):
        told(setting)


def test_every_edit_says_what_it_did_to_the_signal():
    edits = [
        edit
        for report in told(config(SOUND, growth=GROWS, pruning={"method": "hebbian", "update_interval": 1}))
        for edit in report.edits
    ]
    applied = [edit for edit in edits if edit.kind != "skip"]
    assert {edit.kind for edit in applied} == {"grow", "prune"}
    for edit in applied:
        whats = ("output_factor", "gradient_factor", "blocked_change", "rank_change")
        assert set(edit.signal) == {f"{what}/{layer}" for what in whats for layer in (edit.layer, "out")}
        assert edit.signal["output_factor/out"] > 0
        assert edit.signal["gradient_factor/out"] == 1  # gradients are relative to the last layer's
    assert any(edit.signal[f"output_factor/{edit.layer}"] != 1 for edit in applied)
    assert all(edit.signal == {} for edit in edits if edit.kind == "skip")


def test_the_signal_around_an_edit_is_measured_before_and_after_it():
    setting = config(SOUND, pruning={"method": "hebbian", "k1": 0.1, "k2": 0.1, "update_interval": 1})
    training = Training(setting)
    next(iter(training))
    before = checks.measure(copy.deepcopy(training.model).eval(), training.data)
    records, _ = training.editor.edit(training.model, training.optimizer, 1, training.step)
    after = checks.measure(copy.deepcopy(training.model).eval(), training.data)
    by_layer = {b.layer: (b, a) for b, a in zip(before, after, strict=True)}
    assert [record.kind for record in records] == ["prune"] * 3
    for record in records:
        b, a = by_layer[record.layer]
        assert record.signal[f"output_factor/{record.layer}"] == a.output_square / b.output_square
        assert record.signal[f"rank_change/{record.layer}"] == a.effective_rank - b.effective_rank
    # Nine tenths of the connections went, and the signal with them.
    assert records[0].signal["output_factor/out"] < 0.5


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_the_signal_around_an_edit_leaves_mode_and_running_statistics(normalization):
    training = Training(config({**SOUND, "normalization": normalization}, growth=GROWS))
    training.model.train()
    before = copy.deepcopy(training.model.state_dict())
    training.editor._signal(training.model)
    assert all(module.training for module in training.model.modules())
    assert all(torch.equal(value, before[key]) for key, value in training.model.state_dict().items())


def test_measuring_the_signal_is_not_counted_as_training(monkeypatch):
    setting = config(SOUND, growth=GROWS, pruning={"method": "hebbian", "update_interval": 1})
    expected = [report.metrics["cost/train_flops"] for report in told(setting)]
    monkeypatch.setattr(checks, "NUM_IMAGES", 8)
    assert [report.metrics["cost/train_flops"] for report in told(setting)] == expected
