"""What a running trial has reached, as its folder tells."""

from __future__ import annotations

import pytest
from replicate_folders import Replicated

from sweeps.kept import events
from sweeps.kept.outcomes import outcome_so_far


def test_a_trial_that_reported_nothing_has_reached_nothing(tmp_path):
    events.EventWriter(tmp_path / "0").write("started", {})
    assert outcome_so_far(tmp_path / "0") is None


def test_a_trial_trained_once_has_its_newest_report_and_all_its_edits(tmp_path):
    writer = events.EventWriter(tmp_path)
    for epoch, kinds in ((1, ["grow", "prune"]), (2, ["remove", "skip"])):
        edits = [{"kind": kind} for kind in kinds]
        metrics = {"val/accuracy": epoch / 10}
        writer.write("report", {"step": epoch * 10, "epoch": epoch, "metrics": metrics, "edits": edits})
    found = outcome_so_far(tmp_path)
    assert (found.metrics, found.step, found.epoch) == ({"val/accuracy": 0.2}, 20, 2)
    assert (found.num_grown, found.num_pruned, found.replicates) == (1, 2, [])


def test_replicates_are_told_at_the_newest_mean_though_some_are_ahead(tmp_path):
    trial = Replicated(tmp_path / "4", [[0.5, 0.7, 0.8], [0.6, 0.9, 0.8], [0.7, 0.8, 0.8]])
    trial.given()
    trial.report(last=2)
    events.EventWriter(trial.folder / "1").write("report", trial._report(1, 3))
    found = outcome_so_far(trial.folder)
    assert found.epoch == 2
    assert [metrics["val/accuracy"] for metrics in found.replicates] == [0.7, 0.9, 0.8]
    assert found.metrics["val/accuracy"] == pytest.approx(0.8)
    assert (found.num_grown, found.num_pruned) == (6, 0)


def test_a_trial_that_has_just_ended_has_reached_its_outcome(tmp_path):
    trial = Replicated(tmp_path / "4", [[0.5, 0.7], [0.6, 0.9]])
    outcome = trial.write()
    found = outcome_so_far(trial.folder)
    assert (found.metrics, found.replicates, found.errors) == (
        outcome.metrics,
        outcome.replicates,
        outcome.errors,
    )
    assert (found.num_grown, found.num_pruned) == (outcome.num_grown, outcome.num_pruned)
