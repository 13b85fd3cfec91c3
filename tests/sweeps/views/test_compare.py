"""Two sweeps or two trials at the same train FLOPs, on run folders written by hand."""

from __future__ import annotations

import functools
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from replicate_folders import FLOPS, Replicated
from scipy import stats

from sweeps.cli.app import main
from sweeps.config.compose import load
from sweeps.config.errors import ConfigError
from sweeps.config.settings import SweepConfig
from sweeps.kept import events
from sweeps.views import compare, curves

CLOCK = itertools.count(1_700_000_000)


@functools.cache
def shared(*words: str) -> SweepConfig:
    return load(["space=demo", *words])


class Folder:
    """A storage root with sweeps in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def sweep(self, name: str, *words: str) -> None:
        config = shared(*words)
        (self.root / name).mkdir(parents=True)
        plan = {"format": events.FORMAT, "name": name, "config": config.to_dict()}
        (self.root / name / "plan.yaml").write_text(yaml.safe_dump(plan))

    def trial(self, name: str, points: list[tuple[float, float]], state: str | None = "complete", **changed):
        """A trial that reported these (train FLOPs, validation accuracy); `changed` are its own settings."""
        folder = self.root / name
        config = shared().trial.to_dict() | {"seed": 0} | changed
        events.write_json(folder / events.GIVEN, {"number": int(folder.name), "config": config, "params": {}})
        if state is not None:
            events.write_json(folder / events.OUTCOME, {"state": state})
        self.report(name, points)

    def report(self, name: str, points: list[tuple[float, float]]) -> None:
        """More reports, by a new worker; equal FLOPs are the same step."""
        writer = events.EventWriter(self.root / name)
        for flops, value in points:
            metrics = {"cost/train_flops": flops, "val/accuracy": value, "val/loss": 1 - value}
            report = {"step": int(flops), "epoch": 1, "metrics": metrics, "edits": [], "finished": False}
            writer.write("report", {**report, "time": next(CLOCK)})


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "runs")


def compared(folder: Folder, a: str, b: str) -> compare.Comparison:
    return compare.compare(*compare.read(folder.root, a, b))


def line(slope: float, ends: list[float], start: float = 0.5) -> list[tuple[float, float]]:
    return [(flops, start + slope * flops) for flops in ends]


# Two trials


def test_trials_are_compared_at_the_train_flops_both_reached(folder):
    folder.sweep("s")
    folder.trial("s/0", line(1e-3, [100, 200, 300, 400]), model={"name": "a"})
    folder.trial("s/1", line(2e-3, [50, 150, 250]), model={"name": "b"})
    found = compared(folder, "s/0", "s/1")
    assert found.flops == 250
    assert (found.final.a, found.final.b) == pytest.approx((0.75, 1.0))
    assert found.ahead == "s/1"
    # Pairs at the reports of the one that reported less: interpolated points add no evidence.
    assert [pair.flops for pair in found.checkpoints] == [150, 250]
    assert [pair.a for pair in found.checkpoints] == pytest.approx([0.65, 0.75])


def test_what_a_later_worker_reported_counts(folder):
    folder.sweep("s")
    folder.trial("s/0", [(100, 0.1), (200, 0.2), (300, 0.3)])
    folder.report("s/0", [(200, 0.6), (300, 0.7)])
    curve = curves.read_subject(folder.root, "s/0").curves[0]
    np.testing.assert_allclose(curve.values_N, [0.1, 0.6, 0.7])


def test_one_curve_each_is_tested_over_checkpoints_and_said_to_prove_little(folder):
    folder.sweep("s")
    costs = [100.0 * k for k in range(1, 9)]
    values = [0.3, 0.31, 0.5, 0.62, 0.6, 0.7, 0.71, 0.8]
    folder.trial("s/0", list(zip(costs, values, strict=True)), model={"name": "a"})
    ahead_by = np.array([0.01, 0.02, -0.005, 0.03, 0.04, 0.05, 0.06, 0.07])
    others = [value - by for value, by in zip(values, ahead_by, strict=True)]
    folder.trial("s/1", list(zip(costs, others, strict=True)), model={"name": "b"})
    test = compared(folder, "s/0", "s/1").test
    # Ranks of |difference|: the one negative has rank 1, so W = 1; 2 of 2^8 sign patterns lie at or below.
    assert test.p == pytest.approx(2 * 2 / 2**8)
    assert test.name.startswith("Wilcoxon")
    assert test.standard_error is None
    assert "describes these two runs" in test.caveat


def test_equal_curves_are_equal(folder):
    folder.sweep("s")
    for number in (0, 1):
        folder.trial(f"s/{number}", line(1e-3, [100, 200, 300]), model={"name": f"{number}"})
    found = compared(folder, "s/0", "s/1")
    assert (found.ahead, found.test.p, found.test.mean_difference) == (None, 1.0, 0.0)
    assert "they are equal" in "\n".join(compare.table(found))


def test_a_single_common_checkpoint_is_not_tested(folder):
    folder.sweep("s")
    folder.trial("s/0", line(1e-3, [200]), model={"name": "a"})
    folder.trial("s/1", line(2e-3, [100, 300]), model={"name": "b"})
    found = compared(folder, "s/0", "s/1")
    assert (found.test.num_pairs, found.test.p) == (1, None)
    assert "too few pairs for a test" in "\n".join(compare.table(found))


# Seeds


def seeds(folder: Folder, sweep: str, first: int, ends: dict[int, float], **changed) -> None:
    for number, (seed, end) in enumerate(ends.items(), start=first):
        folder.trial(f"{sweep}/{number}", [(100, 0.5), (200, end)], seed=seed, **changed)


def test_trials_that_differ_in_their_seed_alone_are_paired_by_seed(folder):
    folder.sweep("s")
    a, b = {0: 0.9, 1: 0.8, 2: 0.85, 3: 0.7}, {0: 0.87, 1: 0.79, 2: 0.8, 5: 0.1}
    seeds(folder, "s", 0, a, model={"name": "a"})
    seeds(folder, "s", 4, b, model={"name": "b"})
    found = compared(folder, "s/2", "s/4")
    assert [(p.seed, p.a, p.b) for p in found.seeds] == [
        pytest.approx((0, 0.9, 0.87)),
        pytest.approx((1, 0.8, 0.79)),
        pytest.approx((2, 0.85, 0.8)),
    ]
    differences = [0.03, 0.01, 0.05]
    assert found.test.p == pytest.approx(stats.ttest_rel([0.9, 0.8, 0.85], [0.87, 0.79, 0.8]).pvalue)
    assert found.test.mean_difference == pytest.approx(0.03)
    assert found.test.standard_error == pytest.approx(np.std(differences, ddof=1) / np.sqrt(3))
    assert found.final.a == pytest.approx(0.85)
    assert "Few seeds" in found.test.caveat


@pytest.mark.parametrize(("difference", "p"), [(0.25, 0.0), (-0.25, 0.0), (0.0, 1.0)])
def test_differences_that_are_all_equal_leave_no_doubt_where_they_are_not_zero(folder, difference, p):
    for name, shift in (("a", difference), ("b", 0.0)):
        folder.sweep(name)
        for number, end in enumerate((0.25, 0.5, 0.375)):
            folder.trial(f"{name}/{number}", [(1e9, end + shift)], seed=number)
    test = compared(folder, "a/0", "b/0").test
    assert (test.num_pairs, test.mean_difference, test.standard_error, test.p) == (3, difference, 0.0, p)


def test_a_trial_of_the_same_configuration_that_did_not_complete_is_no_replicate(folder):
    folder.sweep("s")
    seeds(folder, "s", 0, {0: 0.9, 1: 0.8}, model={"name": "a"})
    folder.trial("s/2", [(100, 0.5)], state="stopped", seed=2, model={"name": "a"})
    folder.trial("s/3", [(100, 0.5)], state=None, seed=3, model={"name": "a"})
    assert sorted(curves.read_subject(folder.root, "s/0").curves) == [0, 1]


# Replicates


def replicated(folder: Folder, name: str, *ends: float, seed: int = 0, num_epochs: int = 2) -> Replicated:
    """A trial whose seeds report 0.25 until their end; with more FLOPs from one seed to the next."""
    curve = [0.25] * (num_epochs - 1)
    config = shared().trial.to_dict() | {"seed": seed}
    trial = Replicated(folder.root / name, [[*curve, end] for end in ends], config=config)
    trial.given()
    if num_epochs:
        trial.write()
    return trial


def test_a_trial_with_replicates_has_a_curve_for_each_seed(folder):
    folder.sweep("s", "sweep.replicates=3")
    replicated(folder, "s/0", 0.5, 0.75, 1.0, seed=4)
    subject = curves.read_subject(folder.root, "s/0")
    assert (list(subject.curves), subject.seed) == ([4, 5, 6], 4)
    for number, (curve, end) in enumerate(zip(subject.curves.values(), (0.5, 0.75, 1.0), strict=True), 1):
        np.testing.assert_allclose(curve.values_N, [0.25, end])
        np.testing.assert_allclose(curve.flops_N, [number * FLOPS, 2 * number * FLOPS])
    assert subject.checkpoints == (FLOPS, 2 * FLOPS)


def test_replicates_of_two_trials_are_paired_by_seed_whichever_sweeps_they_are_of(folder):
    folder.sweep("s", "sweep.replicates=3")
    folder.sweep("t", "sweep.replicates=2")
    replicated(folder, "s/0", 0.5, 0.75, 1.0, num_epochs=4)
    replicated(folder, "t/3", 0.5, 0.625, seed=1, num_epochs=4)
    found = compared(folder, "s/0", "t/3")
    # Seeds 1 and 2 are the second and third of s/0, and the first and second of t/3, the cheapest of all.
    assert found.flops == 4 * FLOPS
    assert [(pair.seed, pair.a, pair.b) for pair in found.seeds] == [(1, 0.25, 0.5), (2, 0.25, 0.25)]
    assert found.test.name.startswith("paired t-test")
    assert found.test.num_pairs == 2


def test_other_trials_that_differ_in_their_seed_alone_add_nothing_to_replicates(folder):
    folder.sweep("s", "sweep.replicates=2")
    replicated(folder, "s/0", 0.5, 0.75)
    replicated(folder, "s/1", 0.5, 0.75, seed=7)
    assert list(curves.read_subject(folder.root, "s/0").curves) == [0, 1]


def test_a_replicate_may_be_named_alone(folder):
    folder.sweep("s", "sweep.replicates=2")
    replicated(folder, "s/0", 0.5, 0.75)
    subject = curves.read_subject(folder.root, "s/0/1")
    assert (list(subject.curves), subject.seed, subject.is_sweep) == ([1], 1, False)
    np.testing.assert_allclose(subject.curves[1].values_N, [0.25, 0.75])
    caveat = compared(folder, "s/0/0", "s/0/1").test.caveat
    assert "Train both with several seeds (sweep.replicates=5" in caveat


def test_a_sweep_has_spent_the_flops_of_all_its_replicates(folder):
    folder.sweep("s", "sweep.replicates=3")
    for number in range(2):
        replicated(folder, f"s/{number}", 0.5, 0.75, 0.625 + 0.375 * number)
    subject = curves.read_subject(folder.root, "s")
    (curve,) = subject.curves.values()
    each = (1 + 2 + 3) * FLOPS  # of an epoch
    np.testing.assert_allclose(curve.flops_N, [each, 2 * each, 3 * each, 4 * each])
    np.testing.assert_allclose(curve.values_N, [0.25, 0.625, 0.625, 0.75])  # the best mean so far
    assert subject.checkpoints == (2 * each, 4 * each)


def test_replicates_that_are_not_there_are_named(folder):
    folder.sweep("s", "sweep.replicates=2")
    folder.trial("s/1", [(100, 0.5)])
    replicated(folder, "s/0", 0.5, 0.75)
    (folder.root / "s/0/2").mkdir()  # of a driver that died before it said what it is
    replicated(folder, "s/2", 0.5, 0.75, num_epochs=0)
    for name, message in (
        ("s/0/2", "s/0 has no replicate '2' to compare. Its replicates: 0, 1."),
        ("s/0/1/0", "s/0 has no replicate '1/0' to compare. Its replicates: 0, 1."),
        ("s/1/0", "s/1 has no replicate '0' to compare. Its replicates: none, as s/1 is trained once."),
        ("s/3/0", "s has no trial '3' to compare. Its trials: 0, 1, 2."),
        ("s/2", "s/2 has reported nothing that could be compared."),
        ("s/2/1", "s/2/1 has reported nothing that could be compared."),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            curves.read_subject(folder.root, name)


@given(st.lists(st.integers(1, 100), min_size=2, max_size=8), st.integers(-50, 50))
def test_swapping_the_two_changes_signs_alone(values, shift):
    def subject(name: str, offset: float) -> curves.Subject:
        curve = {
            seed: curves.Curve(
                flops_N=np.array([1.0, 2.0]),
                values_N=np.array([0.0, value / 100 + offset * (seed + 1)]),
                is_step=False,
            )
            for seed, value in enumerate(values)
        }
        return curves.Subject(
            name=name, metric="val/accuracy", maximize=True, curves=curve, seed=0, checkpoints=(1.0, 2.0)
        )

    a, b = subject("s/0", 0.0), subject("s/1", shift / 100)
    there, back = compare.compare(a, b), compare.compare(b, a)
    assert there.test.p == pytest.approx(back.test.p)
    assert there.test.mean_difference == pytest.approx(-back.test.mean_difference)
    assert there.ahead == back.ahead


# Two sweeps


def test_a_sweep_is_its_best_so_far_over_the_flops_of_all_its_trials(folder):
    folder.sweep("s")
    folder.trial("s/0", [(100, 0.5), (200, 0.7)])
    folder.trial("s/1", [(100, 0.6), (300, 0.65)])
    folder.trial("s/2", [(50, 0.9)], state="stopped")
    subject = curves.read_subject(folder.root, "s")
    curve = subject.curves[0]
    np.testing.assert_allclose(curve.flops_N, [100, 200, 300, 500, 550])
    np.testing.assert_allclose(curve.values_N, [0.5, 0.7, 0.7, 0.7, 0.9])
    assert subject.checkpoints == (200, 500, 550)
    np.testing.assert_allclose(curve.at([100, 199, 200, 549, 550]), [0.5, 0.5, 0.7, 0.7, 0.9])


def test_a_metric_to_be_minimised_falls(folder):
    folder.sweep("s", "search.metric=val/loss", "search.direction=minimize")
    folder.sweep("t", "search.metric=val/loss", "search.direction=minimize")
    for name, gain in (("s", 0.1), ("t", 0.2)):
        for number in range(3):
            folder.trial(f"{name}/{number}", [(100, gain * number)])
    found = compared(folder, "s", "t")
    assert (found.final.a, found.final.b) == pytest.approx((0.8, 0.6))
    assert found.ahead == "t"


# What cannot be compared


def test_only_like_is_compared_with_like(folder):
    folder.sweep("s")
    folder.sweep("t", "search.metric=val/loss", "search.direction=minimize")
    folder.trial("s/0", [(100, 0.5), (200, 0.6)])
    folder.trial("t/0", [(300, 0.5), (400, 0.6)])
    folder.trial("s/1", [(300, 0.5)])
    (folder.root / "s/2").mkdir()
    for a, b, message in (
        ("s", "s/0", "Compare two sweeps, SWEEP SWEEP, or two trials"),
        ("s/0", "t/0", "s/0 was ranked by val/accuracy and t/0 by val/loss"),
        ("s/0", "s/1", r"No train FLOPs were reached by both: s/0 from 1e-07 to 2e-07 GFLOP, s/1 from 3e-07"),
        ("s/0", "s/9", "s has no trial '9' to compare. Its trials: 0, 1, 2"),
        ("s/0", "s/x", "s has no trial 'x'"),
        ("s/0", "u", "No sweep 'u' under"),
    ):
        with pytest.raises(ConfigError, match=message):
            compared(folder, a, b)


def test_a_trial_that_reported_nothing_is_named(folder):
    folder.sweep("s")
    folder.trial("s/0", [])
    with pytest.raises(ConfigError, match="s/0 has reported nothing"):
        curves.read_subject(folder.root, "s/0")
    with pytest.raises(ConfigError, match="No trial of s has reported"):
        curves.read_subject(folder.root, "s")


def test_a_metric_that_is_not_reported_is_named(folder):
    folder.sweep("s", "search.metric=val/f1")
    folder.trial("s/0", [(100, 0.5)])
    with pytest.raises(ConfigError, match="step 100 has no finite val/f1"):
        curves.read_subject(folder.root, "s/0")


# The command


@pytest.fixture
def two_sweeps(folder, monkeypatch):
    monkeypatch.chdir(folder.root.parent)
    for name, gain in (("tpe-1", 0.02), ("random-1", 0.01)):
        folder.sweep(name)
        for number in range(20):
            folder.trial(f"{name}/{number}", [(1e9 * (1 + number), 0.5 + gain * number)])
    return folder


def test_the_command_prints_a_table_and_draws_a_figure(two_sweeps):
    result = CliRunner().invoke(main, ["compare", "tpe-1", "random-1"])
    assert result.exit_code == 0
    for text in (
        "A = tpe-1",
        "A val acc",
        "12 of 20 checkpoints",
        "at 210 GFLOP tpe-1 is ahead by 0.19",
        "Wilcoxon signed-rank test over checkpoints, 20 pairs: mean A - B +0.095",
        "Repeat both with several search.seed",
        "figure: runs/compare-tpe-1-random-1.png",
    ):
        assert text in result.stdout
    picture = (two_sweeps.root / "compare-tpe-1-random-1.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


def test_json_holds_every_checkpoint_and_the_figure_goes_where_it_is_told(two_sweeps):
    words = ["compare", "tpe-1/3", "random-1/3", "--json", "--output", "there/it.png"]
    result = CliRunner().invoke(main, words)
    values = json.loads(result.stdout)
    assert values["ahead"] == "tpe-1/3"
    assert values["test"]["num_pairs"] == len(values["checkpoints"]) == 1
    assert values["figure"] == "there/it.png"
    assert (two_sweeps.root.parent / "there" / "it.png").is_file()
