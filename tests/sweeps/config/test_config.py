"""A sweep's settings check themselves and survive being written down."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

import growcore.config
from growcore.config import TrialConfig
from sweeps.config import settings as sweep_config
from sweeps.config.compose import load
from sweeps.config.errors import ConfigError
from sweeps.config.settings import GROUPS, TRIAL_GROUPS, SweepConfig, sweep_keys

CONF = Path(__file__).parents[3] / "conf"
PARTS = {
    "data": growcore.config.DataConfig,
    "model": growcore.config.ModelConfig,
    "growth": growcore.config.GrowthConfig,
    "pruning": growcore.config.PruningConfig,
    "optimizer": growcore.config.OptimizerConfig,
    "training": growcore.config.TrainingConfig,
    "search": sweep_config.SearchConfig,
    "scheduler": sweep_config.SchedulerConfig,
    "cluster": sweep_config.ClusterConfig,
    "tracking": sweep_config.TrackingConfig,
}
FILES = [path for group in PARTS for path in sorted((CONF / group).glob("*.yaml"))]


def ids(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_a_group_file_names_itself_and_states_only_what_differs_from_the_defaults(path):
    fields = {f.name: f for f in dataclasses.fields(PARTS[path.parent.name])}
    naming = {"growth": "method", "pruning": "method", "search": "sampler", "cluster": "", "tracking": ""}
    name = naming.get(path.parent.name, "" if path.parent.name == "training" else "name")
    values = OmegaConf.to_container(OmegaConf.load(path)) or {}
    assert values.keys() <= fields.keys()
    assert not name or name in values
    for key, value in values.items():
        if key != name:
            assert value != fields[key].default, f"{key}: {value} is the default"
            assert not is_made_by(fields[key].default_factory, value)


def is_made_by(factory, value) -> bool:
    return factory is not dataclasses.MISSING and factory() == value


def test_the_root_file_chooses_files_and_copies_no_default():
    assert list(OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))) == ["defaults"]


@pytest.mark.parametrize("path", [*FILES, *sorted((CONF / "space").glob("*.yaml"))], ids=ids)
def test_every_key_of_a_group_file_is_explained(path):
    lines = path.read_text().splitlines()
    if not lines[0].startswith("#"):
        unexplained = [line for line in lines if "#" not in line]
        assert unexplained == []
    keys = [line.partition(":")[0] for line in lines if re.match(r"[a-z]", line)]
    said = [line.partition(":")[0] for line in lines if re.match(r"[a-z].*#", line)]
    assert path.stem == "none" or set(keys) - set(said) <= {"method", "name", "sampler"}


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_every_shipped_option_composes(path):
    config = load([f"{path.parent.name}={path.stem}"])
    assert path.parent.name not in TRIAL_GROUPS or config.choices[path.parent.name] == path.stem


def test_a_sweep_survives_being_written_as_yaml():
    config = load(["space=grow_prune"], searches=["model.widths=[[4,4],[8,8]]"])
    text = yaml.safe_dump(config.to_dict(), sort_keys=False)
    assert SweepConfig.from_dict(yaml.safe_load(text)) == config


def test_what_is_written_down_does_not_change_with_the_sweep():
    config = load()
    written = config.to_dict()
    config.space["seed"] = 1
    config.group_options["growth"] = {}
    assert written == load().to_dict()


def test_sweep_keys_are_those_of_the_parts_of_a_sweep():
    known = {key.partition(".")[0] for key in sweep_keys()}
    assert known - set(GROUPS) == {"sweep", "storage", "notify"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.num_trials=0", r"sweep\.num_trials must be at least 1, or null.*; got sweep\.num_trials=0"),
        ("sweep.num_trials=two", r"sweep\.num_trials must be of type int; got 'two'"),
        ("sweep.num_trials=true", r"sweep\.num_trials must be of type int; got True"),
        ("sweep.name=a/b", r"sweep\.name names a folder.*got sweep\.name=a/b"),
        (
            "search.sampler=tpee",
            r"search\.sampler must be one of tpe, random, grid.*or a class of optuna\.samplers; got .*=tpee",
        ),
        ("search.seed=-1", r"search\.seed must not be negative"),
        (
            "search.first=[1]",
            r"search\.first lists trials, each best/NAME or \{KEY: VALUE\}; got search\.first=1",
        ),
        (
            "search.further_objectives={val/loss: down}",
            r"further_objectives\.val/loss=.down. is not one of maximize, m",
        ),
        ("search.further_objectives={val/accuracy: minimize}", r"must not name search\.metric again"),
        (
            "search.constraints={test/loss: '<= 1'}",
            r"must not be measured on test data.*got search.metric=test/loss",
        ),
        ("search.options=3", r"search\.options must be of type dict; got 3"),
        ("search.metric=test/accuracy", r"search\.metric must not be measured on test data"),
        ("scheduler.grace=0", r"scheduler\.grace must lie in \(0, 1\]; got scheduler\.grace=0"),
        ("scheduler.reduction_factor=1", r"scheduler\.reduction_factor must be at least 2"),
        ("cluster.num_concurrent=0", r"cluster\.num_concurrent must be at least 1, or null"),
        ("cluster.cpus_per_trial=0", r"cluster\.cpus_per_trial must be positive"),
        ("cluster.gpus_per_trial=-1", r"cluster\.gpus_per_trial must not be negative"),
        ("tracking.uri=https://me:secret@host", r"tracking\.uri must not hold a password"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name_value_and_rule(override, message):
    with pytest.raises(ConfigError, match=message):
        load([override])


def test_a_refused_password_is_not_repeated():
    with pytest.raises(ConfigError) as caught:
        load(["tracking.uri=https://me:secret@host"])
    assert "secret" not in str(caught.value)


def test_whole_numbers_are_accepted_where_fractions_are():
    cluster = load(["cluster.cpus_per_trial=2"]).cluster
    assert (cluster.cpus_per_trial, type(cluster.cpus_per_trial)) == (2.0, float)


def test_an_unknown_key_of_a_written_sweep_is_refused():
    with pytest.raises(ConfigError, match=r"Unknown key 'spacee'. Did you mean 'space'\?"):
        SweepConfig.from_dict(load().to_dict() | {"spacee": {}})


def test_a_written_sweep_without_optional_parts_takes_their_defaults():
    trial = TrialConfig.from_dict({"data": {"name": "digits"}, "model": {"name": "mlp", "widths": [4]}})
    values = {"trial": trial.to_dict(), "space": {}, "space_name": "none", "choices": {}}
    assert SweepConfig.from_dict(values).sweep.num_trials == 16
