"""What a user types and the folders of files become one configuration."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from growcore.config import TrialConfig
from sweeps.config.compose import folders, load, options, read_best, read_value, user_folder
from sweeps.config.errors import ConfigError
from sweeps.config.quoting import quote

REPOSITORY = Path(__file__).parents[3]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_best(path: Path, recorded: dict | None = None, **overrides) -> TrialConfig:
    """A best file of the default trial with some keys changed."""
    trial = load([f"{key.replace('__', '.')}={value}" for key, value in overrides.items()]).trial
    write(path, yaml.safe_dump(trial.to_dict() | ({"recorded": recorded} if recorded else {})))
    return trial


# Values

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
)


@given(value=PLAIN | st.lists(PLAIN, max_size=3))
def test_a_quoted_value_is_read_back_exactly(value):
    read = read_value(f"key={quote(value)}")
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("text", ["", "'", "\\", "\\'", "\\\\", "a, b", "x=1", "null", "True", "1e-3", " a "])
def test_awkward_text_is_read_back_exactly(text):
    assert read_value(f"key={quote(text)}") == text
    assert read_value(f"key={quote([text, text])}") == [text, text]


def test_later_words_win_over_earlier_ones():
    config = load(["growth=tiny", "optimizer.lr=0.1", "growth=random", "optimizer.lr=0.2"])
    assert (config.choices["growth"], config.trial.optimizer.lr) == ("random", 0.2)


def test_a_typed_value_wins_over_its_group_file_wherever_it_stands():
    assert load(["optimizer.lr=0.2", "optimizer=adam"]).trial.optimizer.lr == 0.2


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimizer.lrr=1", r"Unknown key 'optimizer\.lrr'\. Did you mean 'optimizer\.lr'\?"),
        ("growht=tiny", r"Unknown key 'growht'\. Did you mean 'growth'\?"),
        ("scheduler.xyz=1", r"Unknown key 'scheduler\.xyz'\. Known: scheduler\.name, scheduler\.fidelity"),
        ("+seed=1", r"Unknown key '\+seed'\. Did you mean 'seed'\?"),
        ("growth=tinny", r"Unknown option growth=tinny\. Did you mean 'tiny'\?"),
        ("data=cifar11", r"Unknown option data=cifar11\. Did you mean 'cifar10'\?"),
        ("data.name=cifar11", r"Unknown data\.name='cifar11'\. Did you mean 'cifar10'\?"),
        ("pruning.k1=0.9", r"pruning\.k1 must not exceed pruning\.k2.*got k1=0\.9, k2=0\.7"),
        ("optimizer.lr=fast", r"optimizer\.lr must be of type float; got 'fast'"),
        ("optimizer.lr=1,2", r"optimizer\.lr=1,2 gives several values.*--search optimizer\.lr="),
        ("data.root=[a", r"Cannot read the value of data\.root=\[a\. Quote a text"),
        ("data.root=${oc.env:HOME}", r"data\.root holds '\$\{\.\.\.\}'.*Write the value itself"),
        ("space.seed=1", r"'space\.seed' is part of the space: edit it with --search KEY=\.\.\. or --fix"),
        ("demo", r"Cannot read 'demo': write KEY=VALUE or GROUP=OPTION"),
        ("best=nothing", r"There is no best=nothing: looked for .*best/nothing\.yaml\. .*sweeps best SWEEP"),
        ("best=nothing.yaml", r"There is no best=nothing\.yaml: looked for nothing\.yaml"),
    ],
)
def test_a_wrong_word_is_refused_with_what_would_be_right(word, message):
    with pytest.raises(ConfigError, match=re.compile(message, re.DOTALL)):
        load([word])


# Folders


def test_a_folder_of_the_user_is_searched_first_and_adds_options(tmp_path):
    write(tmp_path / "growth" / "tiny.yaml", "method: tiny\nnum_neurons: 9\n")
    write(tmp_path / "growth" / "mine.yaml", "method: random\n")
    assert load(config_dirs=[tmp_path]).trial.growth.num_neurons == 9
    assert load(["growth=mine"], [tmp_path]).choices["growth"] == "mine"
    assert set(options("growth", folders([tmp_path]))) == {"mine", *options("growth", folders([]))}


def test_a_key_that_a_short_file_leaves_out_can_be_typed(tmp_path):
    write(tmp_path / "growth" / "mine.yaml", "method: random\n")
    write(tmp_path / "pruning" / "nothing.yaml", "")
    config = load(
        ["growth=mine", "pruning=nothing", "growth.num_neurons=7", "pruning.remove_dead=true"], [tmp_path]
    )
    assert (config.trial.growth.num_neurons, config.trial.pruning.remove_dead) == (7, True)


def test_folders_are_searched_in_the_order_given_then_the_working_directory_then_ours(tmp_path, monkeypatch):
    for name in ("a", "b", "work/conf"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    found = folders([tmp_path / "a", tmp_path / "b"])
    assert found == [tmp_path / "a", tmp_path / "b", tmp_path / "work" / "conf", REPOSITORY / "conf"]
    write(tmp_path / "work" / "conf" / "space" / "mine.yaml", "seed: {int: [0, 9]}\n")
    assert load(["space=mine"]).space == {"seed": {"int": [0, 9]}}


def test_new_files_go_to_the_first_folder_of_the_user():
    assert user_folder() == Path("conf")
    assert user_folder([Path("a"), Path("b")]) == Path("a")


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--config-dir .*nowhere is no folder"):
        load(config_dirs=[tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "growth/mine.yaml",
            "methud: tiny",
            r"Unknown key 'growth\.methud'\. Did you mean 'method'|Unknown key",
        ),
        ("growth/mine.yaml", "method: [tiny", "The configuration files do not compose"),
        ("growth/mine.yaml", "method: ${oc.env:HOME}", r"growth\.method holds '\$\{\.\.\.\}'"),
        (
            "growth/mine.yaml",
            "# @package _global_\ngrwth: 1",
            "Unknown key 'grwth' in the configuration files",
        ),
        ("growth/mine.yaml", "defaults: [nothing]", "The configuration files do not compose.*nothing"),
    ],
)
def test_a_wrong_file_is_refused_by_what_is_wrong_in_it(tmp_path, file, text, message):
    write(tmp_path / file, text)
    with pytest.raises(ConfigError, match=re.compile(message, re.DOTALL)):
        load(["growth=mine"], [tmp_path])


@pytest.mark.parametrize("layout", ["wheel", "checkout"])
def test_our_files_are_found_from_another_folder(tmp_path, layout):
    site = tmp_path / "site"
    for package in ("growcore", "sweeps"):
        shutil.copytree(REPOSITORY / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "conf", site / ("sweeps/conf" if layout == "wheel" else "conf"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "from sweeps.config.compose import folders, load; load(['space=fine']); print(*folders())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [str(site / ("sweeps/conf" if layout == "wheel" else "conf"))]


# The space from the command line


def test_searched_keys_join_the_space_and_fixed_ones_leave_it():
    config = load(searches=["training.batch_size={choice: [32, 64]}"], fixes=["pruning.k1=0.2"])
    assert config.space["training.batch_size"] == {"choice": [32, 64]}
    assert "pruning.k1" not in config.space
    assert config.trial.pruning.k1 == 0.2
    assert (config.overrides, config.searches) == (
        ["pruning.k1=0.2"],
        ["training.batch_size={choice: [32, 64]}"],
    )


def test_a_search_may_replace_a_distribution_and_reads_short_exponents():
    config = load(searches=["optimizer.lr={float: [1e-3, 1]}"])
    assert config.space["optimizer.lr"] == {"float": [0.001, 1]}


def test_a_group_can_be_fixed():
    config = load(["space=grow_prune"], fixes=["growth=random"])
    assert "growth" not in config.space
    assert config.trial.growth.method == "random"


@pytest.mark.parametrize(
    ("searches", "fixes", "message"),
    [
        (["seed"], [], "Cannot read 'seed'"),
        (["seed={int: [1"], [], "--search seed is no valid YAML"),
        (["seed=${x}"], [], r"seed holds '\$\{\.\.\.\}'"),
        (["seed={int: [0, 9]}"], ["seed=1"], "seed is both searched and fixed"),
        ([], ["sead=1"], "Unknown key 'sead'. Did you mean 'seed'"),
    ],
)
def test_a_wrong_edit_of_the_space_is_refused(searches, fixes, message):
    with pytest.raises(ConfigError, match=message):
        load(searches=searches, fixes=fixes)


# Best files


def test_a_best_file_is_the_whole_trial_by_name_and_by_path(tmp_path):
    recorded = {"sweep": "demo-1a2b", "metrics": {"val/accuracy": 0.9}}
    trial = write_best(tmp_path / "best" / "mine.yaml", recorded, optimizer="adam", pruning__k1="0.123")
    for word in ("best=mine", f"best={tmp_path / 'best' / 'mine.yaml'}"):
        config = load([word], [tmp_path])
        assert (config.trial, config.recorded) == (trial, recorded)
    assert load().recorded is None


def test_words_are_written_over_a_best_file(tmp_path):
    write_best(tmp_path / "best" / "mine.yaml", growth="random", growth__num_neurons="7", pruning__k1="0.1")
    dirs = [tmp_path]
    assert load(["pruning.k1=0.2", "best=mine"], dirs).trial.pruning.k1 == 0.2
    replaced = load(["best=mine", "growth=tiny"], dirs)
    assert replaced.trial.growth == load(["growth=tiny"]).trial.growth
    assert replaced.trial.pruning.k1 == 0.1
    assert (replaced.choices["growth"], load(["best=mine"], dirs).choices["growth"]) == ("tiny", "random")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "must hold the keys of a trial"),
        ("seed: 0", "Missing key 'data'"),
        ("sead: 0", "Unknown key 'sead'. Did you mean 'seed'"),
        ("seed: [", "is no valid YAML"),
        ("seed: ${x}", "holds '"),
    ],
)
def test_a_file_that_is_no_trial_is_refused_by_its_path(tmp_path, text, message):
    path = write(tmp_path / "best" / "mine.yaml", text)
    with pytest.raises(ConfigError, match=rf"(?s){re.escape(str(path))}.*{message}"):
        read_best("mine", [tmp_path])


def test_a_scheduler_key_without_effect_is_refused_with_those_that_have_one():
    with pytest.raises(ConfigError, match=r"scheduler.grace has no effect .* those that have: none"):
        load(["scheduler=none", "scheduler.grace=0.3"])
    message = r"scheduler.interval has no effect under scheduler=median.*scheduler.grace, scheduler.edit"
    with pytest.raises(ConfigError, match=message):
        load(["scheduler=median", "scheduler.interval=0.3"])
    assert load(["scheduler=median", "scheduler.grace=0.3"]).scheduler.grace == 0.3
