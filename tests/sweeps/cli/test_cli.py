"""The command: what a dry run shows, and how wrong requests and failures end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from sweeps.cli.app import main
from sweeps.cli.command import Command, Commands
from sweeps.config.compose import load
from sweeps.config.errors import ConfigError
from sweeps.space.search_space import SearchSpace
from sweeps.views import plan, tables

HEAVY = ("ray", "optuna", "mlflow", "torch", "sklearn", "numpy")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _cost_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "cost", lambda config, space: f"cost of {config.space_name}")


def launch(*words: str) -> Result:
    return CliRunner().invoke(main, ["launch", "--dry-run", *words])


def imported_by(*words: str) -> tuple[list[str], int]:
    """Heavy modules that a command imported in a process of its own, and its exit code."""
    code = (
        "import json, sys\n"
        "from sweeps.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        f"    print(json.dumps([[m for m in {HEAVY} + ('hydra',) if m in sys.modules], end.code]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    modules, exit_code = json.loads(run.stdout.splitlines()[-1])
    return modules, exit_code


# The dry run


def test_a_dry_run_shows_the_plan_and_starts_nothing(folder):
    result = launch("space=grow_prune", "sweep.num_trials=64", "model.widths=[4,4]")
    assert result.exit_code == 0
    for text in (
        "grow-prune-XXXX",
        "64 trials of 20 epochs",
        "tpe (seed 0, n_startup_trials 8) to maximize val/accuracy",
        "asha by train_flops",
        "1 CPU a trial, as many as fit at a time",
        "sqlite:///runs/mlflow.db",
        "runs/grow-prune-XXXX",
        "name=conv widths=[4,4]",
        "searched, see below",
        "float pruning.k1 to 0.9",
        "one of none, tiny, gradmax, random",
        "growth.method == tiny",
        "sampled trials",
        "cost of grow_prune",
        "Nothing was started",
    ):
        assert text in result.stdout
    assert list(folder.iterdir()) == []


def test_the_sampled_trials_are_those_of_the_space(folder):
    shown = launch("space=demo").stdout
    searched = SearchSpace.of(load(["space=demo"]))
    flat = " ".join(shown.split())
    for number, values in enumerate(searched.sample(3)):
        assert f" {number} {' '.join(searched.overrides(values))}" in flat


def test_a_dry_run_on_a_pipe_is_plain_text(folder):
    shown = launch("space=demo").stdout
    assert "\x1b" not in shown
    assert [line for line in shown.splitlines() if line != line.rstrip()] == []
    assert max(map(len, shown.splitlines())) <= 140


def test_the_plan_names_what_was_asked_for(folder):
    words = (
        "sweep.name=mine",
        "sweep.num_trials=1",
        "scheduler=none",
        "cluster.address=ray://host:10001",
        "cluster.num_concurrent=3",
        "cluster.gpus_per_trial=0.5",
        "tracking.uri=http://host:5000",
        "storage.root=kept",
        "seed=7",
    )
    shown = launch(*words).stdout
    for text in (
        "mine",
        "1 trial of",
        "none: every trial runs to its end",
        "1 CPU and 0.5 GPU a trial, at most 3 at a time, on Ray at ray://host:10001",
        "MLflow http://host:5000",
        "kept/mine",
        "kept/optuna.db",
        "7",
    ):
        assert text in shown


def test_searched_keys_are_not_shown_as_shared(folder):
    shown = launch("space=demo", "--fix", "pruning.k1=0.25").stdout
    shared = shown.partition("space demo")[0]
    assert "k1=0.25" in shared
    assert "k2=" not in shared
    assert "lr=" not in shared


def test_search_and_fix_change_the_space(folder):
    shown = launch("--search", "training.batch_size={choice: [32, 64]}", "--fix", "optimizer.lr=0.1").stdout
    assert "training.batch_size" in shown
    assert "one of 32, 64" in shown
    assert "lr=0.1" in shown
    assert "optimizer.lr " not in shown


def test_a_key_that_no_trial_uses_is_said_to_be_off(folder):
    assert "never: growth.method is none" in launch("growth=none").stdout


def test_folders_of_the_user_can_be_given_more_than_once(folder):
    for name, key in (("a", "seed"), ("b", "training.batch_size")):
        (folder / name / "space").mkdir(parents=True)
        (folder / name / "space" / f"{name}.yaml").write_text(yaml.safe_dump({key: {"choice": [1, 2]}}))
    for name in ("a", "b"):
        result = launch("--config-dir", "a", "--config-dir", "b", f"space={name}")
        assert f"space {name}" in result.stdout


def test_brackets_in_values_survive_the_table(folder):
    shown = launch("--search", "model.widths=[[4, 4], [8, 8]]", "data.root='[bold]'").stdout
    assert "[4, 4], [8, 8]" in shown
    assert "root='[bold]'" in shown


def test_a_plan_without_samples_has_no_trials(capsys):
    config = load()
    tables.show(plan.render(config, SearchSpace.of(config), "demo-1a2b"))
    shown = capsys.readouterr().out
    assert "demo-1a2b" in shown
    assert "sampled trials" not in shown


# Wrong requests and failures

WRONG = [
    (["optimizer.lrr=1"], "Unknown key 'optimizer.lrr'. Did you mean 'optimizer.lr'?"),
    (["growth=tinny"], "Unknown option growth=tinny. Did you mean 'tiny'?"),
    (["--fix", "pruning.k1=0.9", "--fix", "pruning.k2=0.5"], "pruning.k1 must not exceed pruning.k2"),
    (["data.name=cifar11"], "Unknown data.name='cifar11'. Did you mean 'cifar10'?"),
    (["space=none"], "The space 'none' is empty"),
    (["--search", "pruning.k3={float: [0, 1]}"], "'pruning.k3', which is no trial key"),
    (["--search", "pruning.k1={float: [0.9, 0.1]}"], "pruning.k1 a low bound above its high bound"),
    (["--search", "pruning.k1={flaot: [0.1, 0.9]}"], "Unknown distribution of pruning.k1"),
    (["--search", "optimizer.lr={float: [0, 1], log: true}"], "optimizer.lr by its logarithm"),
    (["--search", "pruning.k2={float: [pruning.k9, 1]}"], "refers to unknown key 'pruning.k9'"),
    (["data.root=${oc.env:HOME}"], "data.root holds '${...}'"),
    (["pruning.k1=0.3"], "pruning.k1 is searched by space=demo"),
    (["--config-dir", "nowhere"], "--config-dir nowhere is no folder"),
    (["best=nothing"], "There is no best=nothing"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[words[-1] for words, _ in WRONG])
def test_a_wrong_request_ends_in_one_message_and_exit_code_2(folder, words, message):
    for dry_run in (["--dry-run"], []):
        result = CliRunner().invoke(main, ["launch", *dry_run, *words])
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert "Traceback" not in result.stderr
        assert list(folder.iterdir()) == []


def test_debug_shows_the_traceback_and_the_message(folder):
    result = launch("--debug", "optimizer.lrr=1")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: Unknown key 'optimizer.lrr'. Did you mean 'optimizer.lr'?\n")


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (ConfigError("k1=0.7 is wrong."), 2, "error: k1=0.7 is wrong.\n"),
        (
            RuntimeError("the disk is full"),
            3,
            "failed: RuntimeError: the disk is full (--debug shows where)\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.UsageError("no such option"), 2, None),
        (click.exceptions.Exit(130), 130, ""),
    ],
)
def test_every_ending_has_its_exit_code(error, exit_code, message):
    @click.group(cls=Commands)
    def group() -> None: ...

    @group.command()
    def work() -> None:
        raise error

    result = CliRunner().invoke(group, ["work"])
    assert result.exit_code == exit_code
    assert message is None or result.stderr == message


def test_every_command_can_be_debugged_and_helped():
    assert all(isinstance(command, Command) for command in main.commands.values())
    for name in main.commands:
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        assert "--debug" in result.stdout


# How quickly it answers


def test_help_imports_nothing_heavy():
    assert imported_by("--help") == ([], 0)
    assert imported_by("launch", "--help") == ([], 0)


def test_wrong_requests_import_hydra_alone():
    for words in (
        ["optimizer.lrr=1"],
        ["--dry-run", "pruning.k1=0.3"],
        ["--dry-run", "optimizer.lr=nothing"],
    ):
        modules, exit_code = imported_by("launch", *words)
        assert exit_code == 2
        assert set(modules) <= {"hydra"}


@pytest.mark.slow
def test_a_dry_run_needs_no_cluster_and_no_records(folder):
    """It reads no image either where there is none."""
    modules, exit_code = imported_by("launch", "--dry-run", "data=fashion_mnist")
    assert exit_code == 0
    assert {"ray", "mlflow"}.isdisjoint(modules)
    assert list(folder.iterdir()) == []


def test_the_module_is_the_command():
    started = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "sweeps", "launch", "--dry-run", "data=cifar11"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("error: Unknown option data=cifar11. Did you mean 'cifar10'?")
    assert time.monotonic() - started < 10  # a second or two on an idle machine


def test_a_reader_that_has_seen_enough_is_no_failure(tmp_path):
    words = [sys.executable, "-m", "sweeps", "list", "--root", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        command.stdout.close()
        assert command.stderr.read() == ""


@pytest.mark.parametrize("name", list(main.commands))
def test_help_shows_its_examples_line_by_line_and_each_names_a_command_and_its_options(name):
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0
    assert "\\b" not in shown.output
    assert "\b" not in shown.output
    examples = [line.split() for line in shown.output.splitlines() if line.strip().startswith("sweeps ")]
    for _, command, *words in examples:
        known = {option for parameter in main.commands[command].params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known
