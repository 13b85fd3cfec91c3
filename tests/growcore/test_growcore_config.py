import pytest
from hypothesis import given
from hypothesis import strategies as st

from growcore.config import (
    DATA_FOLDERS,
    DataConfig,
    GrowthConfig,
    Preflight,
    PruningConfig,
    TrialConfig,
    elements,
    list_keys,
    missing_data,
    trial_keys,
)

MINIMAL = {"data": {"name": "digits"}, "model": {"name": "conv", "widths": [4, 8]}}


def changed(key: str, value: object) -> dict:
    group, _, name = key.partition(".")
    return {**MINIMAL, group: {**MINIMAL.get(group, {}), name: value}}


def test_a_configuration_reads_back_what_it_wrote():
    config = TrialConfig.from_dict(changed("pruning.k2", 0.9))
    assert TrialConfig.from_dict(config.to_dict()) == config


def test_every_trial_key_can_be_set_through_plain_values():
    values = TrialConfig.from_dict(MINIMAL).to_dict()
    for key in trial_keys():
        group, _, name = key.partition(".")
        assert name == "" or name in values[group]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.name", "digts", r"data.name='digts'. Did you mean 'digits'\?"),
        ("model.name", "resnt", r"Unknown model.name='resnt'"),
        ("model.widths", [], r"model.widths needs at least one hidden layer"),
        ("model.widths", [8, 0], r"got model.widths=\[8, 0\]"),
        ("model.kernel_size", 4, r"model.kernel_size must be odd"),
        ("model.activation", "rleu", r"model.activation='rleu' is not one of relu.*Did you mean 'relu'"),
        ("model.width", [4], r"Unknown key 'model.width'. Did you mean 'widths'\?"),
        ("growth.num_neurons", 0, r"growth.num_neurons must be at least 1; got growth.num_neurons=0"),
        ("growth.statistical_threshold", 2.0, r"at most 1, while growth.relative_thresholds is on"),
        ("growth.numerical_threshold", float("nan"), r"must be finite"),
        ("pruning.k1", 0.9, r"got k1=0.9, k2=0.7. To restart none, set pruning.k2=0.9"),
        ("pruning.k2", 1.5, r"fractions in \[0, 1\].*k2=1.5"),
        ("pruning.activity_threshold", 0.4, r"pruning.activity_threshold must lie in \[0.5, 1\)"),
        ("optimizer.lr", 0.0, r"optimizer.lr must be positive; got optimizer.lr=0.0"),
        ("optimizer.lr", "fast", r"optimizer.lr must be of type float; got 'fast'"),
        ("training.num_epochs", 2.5, r"training.num_epochs must be of type int; got 2.5"),
        ("training.batch_size", True, r"training.batch_size must be of type int; got True"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_a_way_out(key, value, message):
    with pytest.raises(ValueError, match=message):
        TrialConfig.from_dict(changed(key, value))


def test_a_missing_key_without_default_says_how_to_set_it():
    with pytest.raises(ValueError, match=r"Missing key 'data.name'.*Set data.name=VALUE"):
        TrialConfig.from_dict({**MINIMAL, "data": {}})


@pytest.mark.parametrize(
    ("written", "read"), [("warn", Preflight.warn), ("fail", Preflight.fail), ("off", Preflight.off)]
)
def test_preflight_is_one_of_three_words(written, read):
    config = TrialConfig.from_dict({**MINIMAL, "preflight": written})
    assert config.preflight is read
    assert config.to_dict()["preflight"] == written


def test_an_unquoted_off_of_a_yaml_file_switches_preflight_off():
    assert TrialConfig.from_dict({**MINIMAL, "preflight": False}).preflight is Preflight.off


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fall", r"preflight='fall' is not one of warn, fail, off. Did you mean 'fail'\?"),
        (True, r"preflight=True is not one of warn, fail, off."),
        ({"warn": 1}, r"preflight=\{'warn': 1\} is not one of"),
    ],
)
def test_preflight_refuses_other_words(value, message):
    with pytest.raises(ValueError, match=message):
        TrialConfig.from_dict({**MINIMAL, "preflight": value})


def test_keys_are_those_of_every_part_in_order():
    keys = trial_keys()
    assert keys[0] == "data.name"
    assert keys[-3:] == ["seed", "imports", "preflight"]
    assert len(set(keys)) == len(keys)


def test_a_part_given_as_one_value_is_refused():
    with pytest.raises(ValueError, match=r"'model' is a group of keys; got the single value 3"):
        TrialConfig.from_dict({**MINIMAL, "model": 3})


@pytest.mark.parametrize("end", [-0.1, 1.1])
def test_edits_end_at_a_fraction_of_the_epochs(end):
    with pytest.raises(ValueError, match=r"growth.end_fraction is a fraction in \[0, 1\]"):
        GrowthConfig(end_fraction=end)
    with pytest.raises(ValueError, match=r"pruning.end_fraction is a fraction in \[0, 1\]"):
        PruningConfig(end_fraction=end)


def test_a_network_may_not_start_wider_than_it_may_grow():
    values = changed("growth.method", "tiny")
    values["growth"]["max_width"] = 6
    with pytest.raises(ValueError, match=r"growth.max_width=6, model.widths=\[4, 8\]"):
        TrialConfig.from_dict(values)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            [8],
            r"holds 1 limits, and the network has 2 growable layers, which start \[4, 8\] wide.*Give one for",
        ),
        (
            [8, 6],
            r"growth.max_width.1 must be at least 8.*got growth.max_width=\[8, 6\].*max_width.1=8 or more",
        ),
        ([], r"growth.max_width must be at least 1, or null"),
        ([8, 0], r"growth.max_width must be at least 1, or null"),
        (["8", 8], r"growth.max_width must be of type int; got '8'"),
        ("8", r"growth.max_width must be of type int or list\[int \| None\]; got '8'"),
    ],
)
def test_a_limit_per_layer_is_checked_against_the_widths_at_the_start(limits, message):
    values = changed("growth.method", "tiny")
    values["growth"]["max_width"] = limits
    with pytest.raises(ValueError, match=message):
        TrialConfig.from_dict(values)


@pytest.mark.parametrize("limits", [None, 8, [4, 8], [None, 8], [9, None]])
def test_limits_are_one_for_all_layers_or_one_for_each(limits):
    values = changed("growth.method", "tiny")
    values["growth"]["max_width"] = limits
    assert TrialConfig.from_dict(values).to_dict()["growth"]["max_width"] == limits


def test_the_lists_whose_elements_are_keys():
    assert list_keys() == {"model.widths": False, "model.blocks": False, "growth.max_width": True}


@given(key=st.sampled_from(trial_keys()), index=st.integers(0, 99))
def test_an_element_names_its_list_and_every_other_key_itself(key, index):
    assert elements.list_of(key) == key
    if "." in key:
        assert elements.split(f"{key}.{index}") == (key, index)
    assert elements.split(f"{key}.0{index}") is None


def test_names_of_ones_own_are_left_to_the_modules_that_bring_them():
    assert TrialConfig.from_dict({**changed("data.name", "mine"), "imports": ["my.data"]}).data.name == "mine"


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_validation_needs_a_proper_fraction(fraction):
    with pytest.raises(ValueError, match=r"data.val_fraction must lie in \(0, 1\)"):
        DataConfig(name="digits", val_fraction=fraction)


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist", "cifar10", "cifar100"])
def test_a_missing_data_set_is_noticed_without_torch(tmp_path, name):
    config = DataConfig(name=name, root=str(tmp_path))
    assert str(tmp_path) in missing_data(config)
    assert "data.download=true" in missing_data(config)
    assert missing_data(DataConfig(name=name, root=str(tmp_path), download=True)) is None
    (tmp_path / DATA_FOLDERS[name]).mkdir()
    assert missing_data(config) is None


def test_data_without_files_is_never_missing():
    assert missing_data(DataConfig(name="digits")) is None
