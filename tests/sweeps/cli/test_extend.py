"""More trials for a sweep that was launched: a larger budget, and trials given by hand."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from sweeps.cli.app import main
from sweeps.config import compose
from sweeps.config.settings import SweepConfig
from sweeps.kept import events
from sweeps.kept.trials import TrialState
from sweeps.search import SamplerSettings, Study, study_url
from sweeps.space.search_space import SearchSpace


@functools.cache
def config() -> SweepConfig:
    """Composing takes a second, so it is done once."""
    return compose.load(["space=demo", "model=mlp"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sweep that handed out two of its three trials."""
    (tmp_path / "s").mkdir()
    plan = {"format": events.FORMAT, "name": "s", "config": config().to_dict()}
    (tmp_path / "s" / "plan.yaml").write_text(yaml.safe_dump(plan))
    study = Study.create(study_url(tmp_path), "s", SamplerSettings(name="random"), budget=3)
    for _ in range(2):
        study.ask(SearchSpace.of(config()))
    return tmp_path


def sweeps(root: Path, *words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--root", str(root)])


def study(root: Path) -> Study:
    return Study.load(study_url(root), "s", SamplerSettings(name="random"))


@pytest.mark.parametrize(("trials", "budget"), [("+20", 23), ("84", 84), ("2", 2)])
def test_extend_adds_trials_or_sets_their_number(root, trials, budget):
    done = sweeps(root, "extend", "s", "--trials", trials)
    assert done.exit_code == 0
    assert f"s may run {budget} trials now. If it is not running: sweeps resume s --root" in done.output
    assert study(root).budget.num_trials == budget


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ("1", "has handed out 2 trials, so 1 are too few"),
        ("many", "--trials must be +NUMBER"),
        ("-3", "--trials"),
    ],
)
def test_extend_refuses_what_is_no_larger_number(root, trials, message):
    done = sweeps(root, "extend", "s", "--trials", trials)
    assert (done.exit_code, study(root).budget.num_trials) == (2, 3)
    assert message in done.output


def test_enqueue_gives_a_trial_that_comes_next_and_room_for_it(root):
    done = sweeps(root, "enqueue", "s", "pruning.k1=0.4", "optimizer.lr=0.05")
    assert done.exit_code == 0
    assert "pruning.k1=0.4 optimizer.lr=0.05 is the next trial of s, which may run 4 now" in done.output
    again = study(root)
    assert [row.state for row in again.rows()][2] is TrialState.waiting
    asked = again.ask(SearchSpace.of(config()))
    assert (asked.number, asked.params["pruning.k1"], asked.params["optimizer.lr"]) == (2, 0.4, 0.05)


def test_enqueue_refuses_what_the_space_does_not_hold_and_changes_nothing(root):
    done = sweeps(root, "enqueue", "s", "pruning.k1=0.9")
    assert done.exit_code == 2
    assert "pruning.k1=0.9 lies outside its space" in done.output
    assert study(root).budget.num_trials == 3
    assert len(study(root).rows()) == 2
