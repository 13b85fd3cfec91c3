"""What becomes of the preflight in a sweep: tags, texts, and trials that end before they train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient
from ray.tune.search import Searcher
from stand_in import RANDOM, Heard, LearningRates, trial_config

from sweeps.config.compose import load
from sweeps.kept import events
from sweeps.kept.budget import Budget
from sweeps.kept.events import EventWriter
from sweeps.kept.trials import Outcome, TrialState
from sweeps.records import projection, tracking_store
from sweeps.records.projection import Projector
from sweeps.records.tracking_store import Tracking
from sweeps.run import sweep
from sweeps.run.attempts import Attempts
from sweeps.run.searcher import Goal, StudySearcher
from sweeps.search import SamplerSettings, Study, study_url
from sweeps.trial.attempt import Attempt
from sweeps.trial.engine import Growcore
from sweeps.trial.job import Job
from sweeps.views import leaderboard
from sweeps.views.progress import describe

WARNED = {"severity": "warn", "kind": "low_rank", "layer": "fc3", "reason": "One direction.", "fix": "Fewer."}
FAILED = {"severity": "fail", "kind": "collapse", "layer": "out", "reason": "All alike.", "fix": "Raise it."}
REASON = "infeasible: out: no gradient. Raise it."
PLAN = {
    "command": "sweeps launch",
    "commit": None,
    "config": {key: {"x": 1} for key in ("space", "sweep", "search", "scheduler", "cluster")},
}


def make_job(folder: Path, preflight: str) -> Job:
    config = {
        "data": {"name": "synthetic", "num_train": 100},
        "model": {"name": "mlp", "widths": [8] * 8, "init_gain": 0.05},
        "training": {"num_epochs": 2},
        "preflight": preflight,
    }
    return Job(
        sweep="s",
        number=0,
        folder=str(folder / "s" / "0"),
        workdir=str(folder),
        config=config,
        base=config,
        device="cpu",
    )


@pytest.fixture
def _stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a trial changes into the folder it was launched from


@pytest.mark.usefixtures("_stay")
def test_a_hopeless_trial_ends_before_its_first_report_with_its_finding_and_the_fix(tmp_path):
    job = make_job(tmp_path, "fail")
    result = Attempt(job, Growcore()).advance()
    assert (result["ending"], result["done"]) == ("infeasible", True)
    assert result["reason"].startswith("infeasible: out: the variance of preactivations changes by a factor")
    assert "Multiply the gain by about" in result["reason"]
    *_, last = events.read_events(Path(job.folder))
    assert (last["kind"], last["reason"]) == ("failed", result["reason"])
    assert events.reports(Path(job.folder)) == []
    assert events.findings(Path(job.folder)) is None


@pytest.mark.usefixtures("_stay")
@pytest.mark.parametrize("preflight", ["warn", "off"])
def test_the_same_trial_trains_where_that_is_not_asked_for_and_its_findings_are_kept(tmp_path, preflight):
    job = make_job(tmp_path, preflight)
    result = Attempt(job, Growcore()).advance()
    assert result["ending"] is None
    found = events.findings(Path(job.folder))
    assert ({f["severity"] for f in found} == {"fail"}) == (preflight == "warn")
    assert ("preflight/failures" in result["metrics"]) == (preflight == "warn")


@pytest.mark.parametrize(
    ("preflight", "state", "findings", "verdict"),
    [
        ("warn", "complete", [], "ok"),
        ("warn", "stopped", [WARNED], "warn"),
        ("warn", "complete", [WARNED, FAILED], "fail"),
        ("fail", "infeasible", None, "fail"),
        ("warn", "failed", None, None),
        ("off", "complete", [], None),
    ],
)
def test_the_verdict_is_the_worst_finding_and_absent_where_nothing_was_measured(
    preflight, state, findings, verdict
):
    assert projection.preflight_verdict({"preflight": preflight}, state, findings) == verdict


@pytest.fixture(scope="module")
def tracking(tmp_path_factory) -> Tracking:
    root = tmp_path_factory.mktemp("store")
    return tracking_store.open_tracking(tracking_store.default_uri(root), "growsweep", root)


def project(tracking: Tracking, folder: Path, state: str, told: list[dict] | None) -> tuple:
    """A sweep of one trial in MLflow: its run, and the texts of its artifacts by name."""
    folder.mkdir()
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    trial = folder / "0"
    config = trial_config().to_dict()
    events.write_json(trial / events.GIVEN, {"params": {}, "command": "sweeps train", "config": config})
    if told is not None:
        report = {"step": 10, "epoch": 1, "metrics": {}, "edits": [], "finished": True, "findings": told}
        EventWriter(trial).write("report", report)
    reason = REASON if state == "infeasible" else None
    events.write_json(trial / events.OUTCOME, {"state": state, "reason": reason, "checkpoint": None})
    Projector(tracking, folder, PLAN).project()
    client = MlflowClient(tracking.uri)
    which = f"tags.`growsweep.id` = '{folder.name}/0'"
    (run,) = client.search_runs([tracking.experiment_id], which)
    paths = [a.path for a in client.list_artifacts(run.info.run_id) if a.path == "preflight.txt"]
    texts = {p: Path(client.download_artifacts(run.info.run_id, p)).read_text() for p in paths}
    return run, texts


def test_findings_become_a_tag_and_a_text_of_the_run(tracking, tmp_path):
    run, texts = project(tracking, tmp_path / "warned", "complete", [WARNED, FAILED])
    assert run.data.tags["preflight"] == "fail"
    assert texts["preflight.txt"].splitlines() == [
        "warn: fc3: One direction. Fewer.",
        "fail: out: All alike. Raise it.",
    ]


def test_a_sound_trial_is_tagged_ok_and_has_no_text(tracking, tmp_path):
    run, texts = project(tracking, tmp_path / "sound", "complete", [])
    assert (run.data.tags["preflight"], texts) == ("ok", {})


def test_an_infeasible_trial_is_no_failed_one(tracking, tmp_path):
    run, texts = project(tracking, tmp_path / "hopeless", "infeasible", None)
    assert run.data.tags["preflight"] == "fail"
    assert run.data.tags["growsweep.status"] == "infeasible"
    assert run.data.tags["growsweep.reason"] == REASON
    assert run.info.status == "KILLED"
    assert texts == {}


def test_the_edit_log_says_what_an_edit_did_to_the_signal():
    signal = {
        "output_factor/conv1": 0.834,
        "gradient_factor/conv1": 1.5,
        "blocked_change/conv1": 0.125,
        "rank_change/conv1": -0.75,
    }
    edit = {"step": 10, "epoch": 1, "layer": "conv1", "kind": "prune", "number": 9, "reason": "weak"}
    assert projection.readable([{**edit, "signal": signal}]) == (
        "epoch 1, step 10: prune conv1 by 9: weak [second moment of conv1 x 0.834, of its gradient x 1.5, "
        "blocked units +12%, effective rank -0.75]\n"
    )
    assert projection.readable([{**edit, "kind": "skip", "signal": {}}]).endswith("by 9: weak\n")


def test_what_the_log_reads_is_what_training_writes():
    from growcore.config import TrialConfig
    from growcore.training import Training

    values = {
        "data": {"name": "synthetic", "num_train": 200},
        "model": {"name": "mlp", "widths": [8, 8]},
        "growth": {"method": "random", "num_neurons": 2},
        "training": {"num_epochs": 2, "batch_size": 50},
    }
    told = [json.loads(json.dumps(report.to_dict())) for report in Training(TrialConfig.from_dict(values))]
    edits = [edit for report in told for edit in report["edits"]]
    assert {edit["kind"] for edit in edits} == {"grow"}
    assert projection.readable(edits).count("effective rank") == len(edits)


def test_an_infeasible_trial_keeps_its_reason_and_is_never_ranked(tmp_path):
    study = Study.create(study_url(tmp_path), "s", RANDOM)
    study.ask(LearningRates())
    study.reject(0, REASON, Outcome())
    row = Study.load(study_url(tmp_path), "s").row(0)
    assert (row.state, row.reason, row.value) == (TrialState.infeasible, REASON, None)
    assert row.state.has_ended
    assert (study.rank(), study.best()) == ([], None)
    assert study.summary().num_trials[TrialState.infeasible] == 1
    study.complete(0, 0.9, Outcome())  # too late
    assert study.row(0) == row


def test_a_driver_that_dies_before_it_tells_leaves_a_running_trial(tmp_path):
    study = Study.create(study_url(tmp_path), "s", RANDOM)
    study.ask(LearningRates())
    ended = {"reason": REASON, "outcome": Outcome().to_dict(), "infeasible": True}
    study._unfinished(0).set_user_attr("ended", json.dumps(ended))
    assert study.row(0).state is TrialState.running


def test_a_searcher_tells_an_infeasible_trial_as_such_and_counts_it(tmp_path):
    study = Study.create(study_url(tmp_path), "s", RANDOM)
    study.set_budget(Budget(num_trials=1))
    heard = Heard()
    searcher = StudySearcher(
        study,
        LearningRates(),
        Goal(fidelity="epoch"),
        job=lambda assignment: {"number": assignment.number},
        capacity=lambda: 9,
        attempts=Attempts(tmp_path, 0, heard.say),
        listener=heard,
    )
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"ending": "infeasible", "reason": REASON, "done": True})
    assert [(row.state, row.reason) for row in heard.rows] == [(TrialState.infeasible, REASON)]
    assert searcher.suggest("b") == Searcher.FINISHED


def num_asked_beyond(folder: Path, limit: float, end: str) -> int:
    """Of 24 trials by TPE, how many have a learning rate above `limit`, where all of those end as told."""
    tpe = SamplerSettings(seed=5, options={"n_startup_trials": 8})
    study = Study.create(study_url(folder), end, tpe)
    beyond = 0
    for _ in range(24):
        assignment = study.ask(LearningRates())
        lr = assignment.params["optimizer.lr"]
        if lr > limit:
            beyond += 1
            getattr(study, end)(assignment.number, REASON, Outcome())
        else:
            study.complete(assignment.number, lr, Outcome())  # the best is just within the limit
    return beyond


def test_a_sampler_learns_to_stay_away_from_what_was_infeasible(tmp_path):
    assert num_asked_beyond(tmp_path, 0.1, "reject") < num_asked_beyond(tmp_path, 0.1, "fail")


def test_infeasible_trials_are_listed_before_failed_ones_and_counted_by_themselves(tmp_path):
    study = Study.create(study_url(tmp_path), "s", RANDOM)
    for _ in range(4):
        study.ask(LearningRates())
    study.fail(0, "the training loss became nan", Outcome())
    study.reject(1, REASON, Outcome())
    study.complete(2, 0.9, Outcome())
    study.stop(3, 0.4, 3, Outcome(epoch=3), "behind other trials")
    assert [entry.number for entry in leaderboard.entries(study)] == [2, 3, 1, 0]
    assert leaderboard.counts(study) == "4 trials: 1 complete, 1 stopped early, 1 infeasible, 1 failed"
    lines = leaderboard.table(study)
    assert f"  {REASON}; lr " in lines[3]
    assert "failed: the training loss became nan; lr " in lines[4]


def test_the_end_of_an_infeasible_trial_is_told_as_its_reason(tmp_path):
    study = Study.create(study_url(tmp_path), "s", RANDOM)
    study.ask(LearningRates())
    study.reject(0, REASON, Outcome())
    assert describe(study.row(0), "val/accuracy") == REASON


@pytest.mark.slow
def test_a_sweep_goes_on_past_trials_that_its_preflight_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        *("data=synthetic", "data.num_train=100", "model=mlp", "model.widths=[8,8,8,8,8,8,8,8]"),
        *("growth=none", "pruning=none", "training.num_epochs=1", "preflight=fail", "space=none"),
        *("search=random", "scheduler=none", "sweep.num_trials=2", "cluster.num_concurrent=1"),
    ]
    config = load(words, searches=["model.init_gain={choice: [0.01, 1.0]}"])
    result = sweep.launch(config, "gains", ["sweeps", "launch"])
    rows = {row.params["model.init_gain"]: row for row in result.study.rows()}
    assert {gain: row.state for gain, row in rows.items()} == {
        0.01: TrialState.infeasible,
        1.0: TrialState.complete,
    }
    assert rows[0.01].reason.startswith("infeasible: out: the variance of preactivations")
    assert rows[1.0].outcome.metrics["preflight/failures"] == 0
    root = tmp_path / "runs"
    tracking = tracking_store.open_tracking(tracking_store.default_uri(root), "growsweep", root)
    runs = MlflowClient(tracking.uri).search_runs([tracking.experiment_id], "tags.`growsweep.kind` = 'trial'")
    assert {run.data.params["model.init_gain"]: run.data.tags["preflight"] for run in runs} == {
        "0.01": "fail",
        "1.0": "ok",
    }
