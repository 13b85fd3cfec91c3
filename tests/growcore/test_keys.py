"""Which key acts under which choice: what the objects of methods say is what they read."""

import dataclasses
import subprocess
import sys

import pytest

from growcore import keys
from growcore.config import (
    GrowthConfig,
    ModelConfig,
    PruningConfig,
    Strength,
    TrialConfig,
    list_keys,
    registry,
    trial_keys,
)
from growcore.sparse.strength import STRENGTHS
from growcore.training import Training

EVERY_KIND = [registry.MODELS, registry.GROWTH_METHODS, registry.PRUNING_METHODS]
PARTS = {"growth": GrowthConfig, "pruning": PruningConfig, "model": ModelConfig}


def trial(**parts: dict) -> TrialConfig:
    values: dict = {
        "data": {"name": "synthetic", "num_train": 80},
        "model": {"name": "conv", "widths": [3, 3]},
        "training": {"num_epochs": 3, "batch_size": 20},
        "preflight": "off",
    }
    for name, part in parts.items():
        values[name] = {**values.get(name, {}), **part}
    return TrialConfig.from_dict(values)


def outcome(config: TrialConfig) -> list[dict]:
    reports = []
    for report in Training(config):
        values = report.to_dict()
        del values["metrics"]["cost/wall_seconds"]
        for edit in values["edits"]:
            edit["reason"] = ""  # may name a value that has no other effect
        reports.append(values)
    return reports


# For each key a base under which a change of it can show, and two values of it.
GROWS = {"every_epochs": 1, "num_neurons": 2, "end_fraction": 1.0, "statistics_batches": 2}
CHANGES = {
    "growth.where": ({}, "all", "round_robin"),
    "growth.start_epoch": ({}, 0, 2),
    "growth.every_epochs": ({}, 1, 2),
    "growth.end_fraction": ({}, 0.0, 1.0),
    "growth.num_neurons": ({}, 1, 2),
    "growth.max_width": ({}, 4, None),
    "growth.statistics_batches": ({}, 1, 2),
    "growth.numerical_threshold": ({}, 0.0, 0.5),
    "growth.statistical_threshold": ({"num_neurons": 3}, 0.0, 1.0),
    "growth.relative_thresholds": ({"statistical_threshold": 0.9, "num_neurons": 3}, True, False),
    "growth.relative_ridge": ({}, 0.0, 1.0),
    "growth.init": ({}, "copy_uniform", "kaiming"),
    "growth.normalization": ({}, "none", "legacy_normalization"),
    "growth.max_scaling_factor": ({}, 0.5, 1.0),
    "pruning.strength": ({}, "coactivation", "magnitude"),
    "pruning.scope": ({}, "layer", "channel"),
    "pruning.k1": ({}, 0.3, 0.5),
    "pruning.k2": ({}, 0.6, 0.8),
    "pruning.density": ({}, 0.3, 0.5),
    "pruning.allocation": ({"density": 0.3}, "erk", "uniform"),
    "pruning.fraction": ({}, 0.2, 0.5),
    "pruning.schedule": ({}, "constant", "linear"),
    "pruning.activity_threshold": ({}, 0.5, 0.8),
    "pruning.update_interval": ({}, 1, 3),
    "pruning.start_epoch": ({}, 1, 2),
    "pruning.every_epochs": ({}, 1, 2),
    "pruning.end_fraction": ({}, 0.0, 1.0),
}
PRUNES = {"every_epochs": 1, "k1": 0.4, "k2": 0.6, "density": 0.4, "end_fraction": 1.0, "update_interval": 1}


def cases() -> list[tuple[str, str, str]]:
    found = []
    for part, kind in (("growth", registry.GROWTH_METHODS), ("pruning", registry.PRUNING_METHODS)):
        for method in registry.built_in(kind):
            found += [(part, method, key) for key in CHANGES if key.startswith(f"{part}.")]
    return found


def with_value(part: str, method: str, key: str, value: object) -> TrialConfig:
    own = {**(GROWS if part == "growth" else PRUNES), **CHANGES[key][0], "method": method}
    return trial(**{part: {**own, key.partition(".")[2]: value}})


@pytest.mark.slow
@pytest.mark.parametrize(("part", "method", "key"), cases())
def test_a_key_changes_a_training_exactly_where_its_method_says_so(part, method, key):
    _, first, second = CHANGES[key]
    configs = [with_value(part, method, key, value) for value in (first, second)]
    acts = not keys.without_effect(configs[0], [key]) or not keys.without_effect(configs[1], [key])
    assert (outcome(configs[0]) != outcome(configs[1])) == acts


def test_methods_and_families_state_keys_that_there_are():
    for kind in EVERY_KIND:
        part = kind.key.partition(".")[0]
        fields = {f.name for f in dataclasses.fields(PARTS[part])}
        for name, thing in registry.built_in(kind).items():
            assert set(thing.keys) <= fields, name
            assert thing.meaning, name
            for needs in thing.keys.values():
                assert set(needs) <= fields


def test_every_key_of_a_part_acts_under_something():
    effects = keys.effects()
    for key, effect in effects.items():
        assert effect.ways, key
    assert effects.keys() <= set(trial_keys())


def test_update_interval_acts_with_the_strengths_that_are_measured():
    measured = {name for name, strength in STRENGTHS.items() if strength.measure is not None}
    stated = registry.built_in(registry.PRUNING_METHODS)["hebbian"].keys["update_interval"]["strength"]
    assert set(stated) == measured & {strength.value for strength in Strength}


@pytest.mark.parametrize(
    ("parts", "key", "needs"),
    [
        ({"pruning": {"method": "set"}}, "pruning.k1", "pruning.method in [hebbian, random]"),
        ({"pruning": {"method": "hebbian"}}, "pruning.density", "hebbian_exchange, set"),
        (
            {"growth": {"method": "random"}},
            "growth.statistical_threshold",
            "growth.method in [tiny, gradmax]",
        ),
        ({"model": {"name": "mlp"}}, "model.kernel_size", "model.name != mlp"),
        ({}, "training.min_improvement", "training.patience > 0"),
        (
            {"pruning": {"method": "hebbian", "strength": "magnitude"}},
            "pruning.activity_threshold",
            "coactivation",
        ),
    ],
)
def test_a_key_without_effect_is_told_with_what_it_needs(parts, key, needs):
    assert needs in str(keys.without_effect(trial(**parts), [key])[key])


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ({"pruning": {"method": "none", "remove_dead": True}}, "pruning.every_epochs"),
        ({"pruning": {"method": "none", "remove_dead": True}}, "growth.statistics_batches"),
        ({"growth": {"method": "gradmax"}}, "growth.statistical_threshold"),
        ({"training": {"patience": 2}}, "training.min_improvement"),
        ({}, "optimizer.lr"),
    ],
)
def test_a_key_with_an_effect_is_not_told(parts, key):
    assert keys.without_effect(trial(**parts), [key]) == {}


@pytest.mark.parametrize("name", ["mlp", "conv", "resnet", "vgg"])
def test_an_element_acts_where_its_list_does(name):
    config, found = trial(model={"name": name}), keys.effects()
    for listed in list_keys():
        element = f"{listed}.1"
        assert keys.stated(found, element) == keys.stated(found, listed)
        silent = [set(keys.without_effect(config, [key])) for key in (listed, element)]
        assert silent in ([set(), set()], [{listed}, {element}])
    assert ("model.blocks.0" in keys.without_effect(config, ["model.blocks.0"])) == (name in ("mlp", "conv"))


def test_reading_which_keys_act_imports_no_torch():
    code = "import sys; from growcore import keys, metrics; keys.effects(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
