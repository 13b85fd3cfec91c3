"""`sweeps preflight`: what it shows and how it ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from growcore.training import Training
from sweeps.cli.app import main
from sweeps.cli.command import FAILED, WRONG_REQUEST
from sweeps.config.compose import load
from sweeps.views import preflight

DEEP = ["model=mlp", "model.widths=[16,16,16,16,16,16]", "growth=none", "pruning=none"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["preflight", *words])


def test_a_sound_network_ends_with_0_and_nothing_found():
    result = run("data=synthetic")
    assert result.exit_code == 0
    assert "nothing found" in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines()[:5]] == [
        "layer",
        "conv1",
        "conv2",
        "conv3",
        "out",
    ]


def test_a_hopeless_network_ends_with_3_its_reason_and_its_fix():
    result = run("data=synthetic", *DEEP, "model.init_gain=0.01")
    assert result.exit_code == FAILED
    assert re.search(r"^fail +out: the variance of preactivations changes by a factor", result.stdout, re.M)
    assert "Multiply the gain by about" in result.stdout
    assert "nothing found" not in result.stdout


def test_a_doubtful_network_is_warned_of_and_ends_with_0():
    result = run("data=synthetic", *DEEP, "model.init_gain=0.5")
    assert result.exit_code == 0
    assert re.search(r"^warn +out: ", result.stdout, re.M)
    assert not re.search(r"^fail", result.stdout, re.M)


def test_what_is_shown_is_what_the_trial_will_measure():
    config = load(["data=synthetic", *DEEP, "model.init_gain=0.5", "training.num_epochs=1"]).trial
    found = preflight.check(config)
    report = next(iter(Training(config)))
    assert found.findings == report.findings
    assert found.metrics == {k: v for k, v in report.metrics.items() if k.startswith("preflight/")}


def test_a_preflight_is_shown_even_where_trials_go_without_one():
    assert run("data=synthetic", *DEEP, "model.init_gain=0.01", "preflight=off").exit_code == FAILED


def test_an_exported_trial_can_be_checked():
    trial = load(["data=synthetic", *DEEP, "model.init_gain=0.01"]).trial.to_dict()
    Path("mine.yaml").write_text(yaml.safe_dump(trial))
    assert run("best=mine.yaml").exit_code == FAILED
    assert run("best=mine.yaml", "model.init_gain=1.0").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.widht=3"], "Did you mean 'model.widths'"),
        (["preflight=fall"], "preflight='fall' is not one of warn, fail, off. Did you mean 'fail'?"),
        (["data=cifar10", "data.root=nowhere"], "Set data.root to the folder that holds it"),
        (["data=synthetic", "data.num_train=1"], "Raise data.num_train"),
    ],
)
def test_a_wrong_request_ends_with_2_and_a_way_out(words, message):
    result = run(*words)
    assert result.exit_code == WRONG_REQUEST
    assert message in result.stderr
