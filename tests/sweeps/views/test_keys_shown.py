"""`sweeps keys`: every key is shown, with its default, its meaning and where it has an effect."""

import dataclasses

import pytest
from click.testing import CliRunner

from growcore import config as trials
from growcore.config.schema import meanings
from sweeps.cli import main
from sweeps.config import settings

PARTS = [
    *(getattr(trials, f"{name}Config") for name in ("Data", "Model", "Growth", "Pruning", "Optimizer")),
    trials.TrainingConfig,
    trials.TrialConfig,
    *settings.PARTS.values(),
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_field_of_a_configuration_says_what_it_means(part):
    told = meanings(part)
    assert [name for name, meaning in told.items() if len(meaning) < 4] == []
    assert list(told) == [field.name for field in dataclasses.fields(part)]


def test_all_keys_are_shown_with_their_defaults():
    shown = CliRunner().invoke(main, ["keys"])
    assert shown.exit_code == 0
    keys = [*trials.trial_keys(), *settings.sweep_keys()]
    first_words = {line.split()[0] for line in shown.output.splitlines() if line.strip()}
    assert [key for key in keys if key not in first_words and not key.endswith(".options")] == []
    assert "growth.every_epochs" in shown.output


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("pruning", ["pruning.k1", "0.5", "pruning.method in [hebbian, random]"]),
        ("growth", ["growth.relative_ridge", "0.0", "growth.method == tiny"]),
        ("model", ["model.downsample_every", "2", "model.name == conv"]),
        ("scheduler", ["scheduler.quantile", "0.25", "scheduler in [pbt]"]),
        ("storage", ["storage.root", "runs", "folder of optuna.db"]),
        ("growth", ["tiny", "the optimum of the first-order decrease"]),
    ],
)
def test_a_key_is_shown_with_where_it_has_an_effect(part, line):
    shown = CliRunner().invoke(main, ["keys", part]).output
    assert any(all(word in row for word in line) for row in shown.splitlines())


def test_keys_of_a_method_of_ones_own_are_shown(tmp_path, monkeypatch):
    (tmp_path / "mine_of_keys.py").write_text(
        "from growcore.config.acting import Option\n"
        "from growcore.growth.methods import GrowthMethod\n"
        "OWN = GrowthMethod(meaning='as I like it', options={'zeal': Option(0.5, 'how much', 0, 1)})\n"
        "GROWTH_METHODS = {'mine': OWN}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    shown = CliRunner().invoke(main, ["keys", "growth", "--import", "mine_of_keys"]).output
    rows = shown.splitlines()
    assert any(
        "growth.options.zeal" in row and "0.5" in row and "growth.method == mine" in row for row in rows
    )
    assert "as I like it" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grwth"], "No part of a configuration is called 'grwth'. Did you mean 'growth'?"),
        (["growth", "--import", "not_there"], "cannot be imported here"),
    ],
)
def test_what_there_is_not_is_refused(words, message):
    done = CliRunner().invoke(main, ["keys", *words])
    assert done.exit_code == 2
    assert message in done.output
