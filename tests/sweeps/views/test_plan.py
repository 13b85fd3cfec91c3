"""What people read of a sweep's life before it starts."""

from __future__ import annotations

import functools

import pytest

from sweeps.config import compose
from sweeps.config.errors import ConfigError
from sweeps.config.settings import WEBHOOK, SweepConfig
from sweeps.run import sweep
from sweeps.space.search_space import SearchSpace
from sweeps.views import plan, tables


@functools.cache
def load(*words: str) -> SweepConfig:
    return compose.load(["space=demo", *words])


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    config = load(*words)
    tables.show(plan.render(config, SearchSpace.of(config), "s"))
    return " ".join(capsys.readouterr().out.split())


def test_the_plan_names_every_budget(capsys):
    assert "16 trials of 20 epochs search" in shown(capsys)
    assert "16 trials of 20 epochs, or 2 h" in shown(capsys, "sweep.max_hours=2")
    without = ("sweep.num_trials=null", "sweep.max_hours=2", "sweep.max_train_flops=1e14")
    assert "as many as start within 2 h or 1e+14 train FLOPs" in shown(capsys, *without)


def test_the_plan_says_with_which_seeds_each_configuration_is_trained(capsys):
    told = shown(capsys, "sweep.replicates=3", "seed=5")
    assert (
        "16 configurations of 20 epochs, each trained with seeds 5 to 7, ranked by their mean search" in told
    )
    assert " seed 5 to 7 " in told
    without = ("sweep.num_trials=null", "sweep.max_hours=2", "sweep.replicates=2")
    told = shown(capsys, *without)
    assert "as many configurations as start within 2 h, of 20 epochs, each trained with seeds 0 to 1" in told


def test_searched_seeds_and_replicates_are_refused_together():
    config = compose.load(["space=demo", "sweep.replicates=2"], searches=["seed={int: [0, 90]}"])
    with pytest.raises(ConfigError, match=r"sweep.replicates=2 .* seed is searched. Take seed out"):
        sweep.notes(config, SearchSpace.of(config))


def test_the_plan_says_how_failures_hangs_and_time_limits_are_met(capsys):
    told = shown(capsys, "cluster.hang_seconds=90", "cluster.max_retries=1", "cluster.trial_seconds=600")
    assert "a trial that crashes or reports nothing for 90 s is tried again once; more than" in told
    assert "16 trials of 20 epochs, at most 10 min of training search" in told
    told = shown(capsys, "cluster.hang_seconds=null", "cluster.max_retries=0")
    assert "a trial that crashes is not tried again; more than" in told


def test_the_plan_says_what_stops_what_is_kept_and_who_is_told_but_not_where(capsys, monkeypatch):
    monkeypatch.setenv(WEBHOOK, "https://hooks.example/very-secret")
    words = ("sweep.max_failed=0.25", "storage.keep_checkpoints=3", "notify.events=[finished]")
    told = shown(capsys, *words)
    assert "more than 25% of 8 or more ended trials failing stops the sweep" in told
    assert "checkpoints of the best 3 when it ends" in told
    assert "told finished to the webhook" in told
    assert "secret" not in told


def test_keeping_no_checkpoint_of_any_trial_is_refused():
    with pytest.raises(ConfigError, match=r"must be at least 1.*storage.keep_checkpoints=0"):
        load("storage.keep_checkpoints=0")
