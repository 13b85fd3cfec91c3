"""Methods and metrics of one's own, in a sweep: searched, recorded, checkpointed, resumed like ours."""

import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from local_sweeps import read_runs

from sweeps.cli import main
from sweeps.config.compose import load
from sweeps.config.errors import ConfigError
from sweeps.records import disk
from sweeps.run import checks, sweep
from sweeps.space.search_space import SearchSpace

PAGE = Path(__file__).parents[3] / "docs" / "own_methods.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
NAMES = ("sweep_growth", "sweep_pruning", "sweep_metric")
WORDS = [
    f"imports=[{','.join(NAMES)}]",
    "model=conv",
    "model.widths=[3,3]",
    "growth.method=quiet",
    "growth.num_neurons=2",
    "growth.every_epochs=1",
    "pruning.method=middle_out",
    "pruning.k2=0.6",
    "pruning.every_epochs=1",
    "training=fast",
    "training.num_epochs=3",
    "data.num_train=120",
    "space=none",
    "scheduler=none",
    "search=random",
    "search.metric=val/top2",
    "sweep.num_trials=3",
    "sweep.name=own",
    "cluster.num_concurrent=2",
    "cluster.cpus_per_trial=0.5",
]
LR = "optimizer.lr={float: [0.1, 1]}"
SEARCHES = ["growth.options.share={float: [0, 1]}", "growth.method={choice: [quiet, random]}"]


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """The examples in the working folder, where the command and its workers find them."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, text in zip(NAMES, EXAMPLES, strict=True):
        (folder / f"{name}.py").write_text(text)
    return folder


def config(root: Path, *words: str):
    typed = [word for word in WORDS if not word.startswith("growth.method")]
    return load([*typed, f"storage.root={root}", *words], searches=SEARCHES)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_sweep_over_methods_of_ones_own_is_searched_recorded_and_resumed(modules, tmp_path):
    root = tmp_path / "runs"
    result = sweep.launch(config(root), "own", ["sweeps", "launch"])
    assert result.status == "complete"
    rows = result.study.rows()
    assert {row.params.get("growth.options.share") is not None for row in rows} >= {True}
    for row in rows:
        assert ("growth.options.share" in row.params) == (row.params["growth.method"] == "quiet")
        assert row.value == pytest.approx(row.outcome.metrics["val/top2"])
        assert row.outcome.metrics["test/top2"] >= row.outcome.metrics["test/accuracy"]
        assert row.outcome.num_grown > 0
        assert row.outcome.num_pruned > 0
    runs = read_runs(root, "own")
    assert runs["own/0"].data.metrics["val/top2"] == pytest.approx(rows[0].value)
    shown = CliRunner().invoke(main, ["show", "own", "--root", str(root)]).output
    assert "top-2" in shown  # the label was kept with the plan
    at = ["--config-dir", str(tmp_path)]
    assert CliRunner().invoke(main, ["best", "own", "--root", str(root), *at, "--save", "b"]).exit_code == 0
    again = CliRunner().invoke(main, ["train", "best=b", *at])
    assert again.exit_code == 0, again.output
    (compared,) = [line.split() for line in again.output.splitlines() if line.strip().startswith("val/top2")]
    assert compared[-1] == "+0"
    sweep.extend(root, "own", {"num_trials": "4"})
    resumed = sweep.resume(root, "own")
    assert len(resumed.study.rows()) == 4


def test_options_of_ones_own_are_keys_of_a_command_line_and_of_a_space(modules, tmp_path):
    typed = [word for word in WORDS if not word.startswith("growth.method")]
    given = load(
        [*typed, "growth.method=quiet", "growth.options.share=0.3"],
        searches=[LR],
    )
    assert given.trial.growth.options == {"share": 0.3}
    space = SearchSpace.of(config(tmp_path))
    values = space.sample(20)
    assert any("growth.options.share" in each for each in values)
    trial = space.apply(next(each for each in values if "growth.options.share" in each))
    assert 0 <= trial.growth.options["share"] <= 1
    words = space.overrides(values[0])
    assert load([*typed, *words], searches=[LR]).trial == space.apply(values[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["growth.method=quiet", "growth.options.shar=0.3"], r"Did you mean 'share'"),
        (["growth.method=quiet", "growth.options.share=3"], r"must lie in \[0, 1\]"),
        (["growth.method=tiny", "growth.options.share=0.3"], r"no option of growth.method=tiny"),
        (["growth.method=quit"], r"Unknown name 'quit' among GROWTH_METHODS. Did you mean 'quiet'"),
    ],
)
def test_what_a_method_of_ones_own_does_not_have_is_refused_at_the_door(modules, words, message):
    typed = [word for word in WORDS if not word.startswith("growth.method")]
    with pytest.raises(ConfigError, match=message):
        load([*typed, *words])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "search.metric=val/acuracy",
            r"search.metric: No report holds a metric 'val/acuracy'. Did you mean 'val/ac",
        ),
        (
            "search.further_objectives={model/params: minimize}",
            r"search.further_objectives: .*'model/parameters'",
        ),
        (
            "search.constraints={model/parametrs: '<= 100'}",
            r"search.constraints: .*Did you mean 'model/parameters'",
        ),
        (
            "search.metric=growth/realised_decrease",
            r"search.metric: growth/realised_decrease is not in every report",
        ),
        (
            "search.metric=val/accuracy/eleven",
            r"No report holds a metric 'val/accuracy/eleven'. Known: 0, 1, 2",
        ),
        (
            "search.metric=model/width/conv9",
            r"No report holds a metric 'model/width/conv9'. Did you mean 'conv",
        ),
    ],
)
def test_a_metric_that_no_report_holds_is_refused_before_anything_starts(tmp_path, word, message):
    asked = load(["space=demo", f"storage.root={tmp_path}/runs", word])
    with pytest.raises(ConfigError, match=message):
        checks.check_metrics(asked)
    done = CliRunner().invoke(main, ["launch", "--dry-run", "space=demo", word])
    assert done.exit_code == 2
    with pytest.raises(ConfigError, match=message):
        sweep.launch(asked, "s", ["sweeps"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("word", ["search.metric=val/accuracy/7", "search.metric=model/width/conv1"])
def test_a_metric_of_a_class_or_a_layer_that_there_is_can_be_searched_for(word):
    checks.check_metrics(load(["space=demo", word]))


def test_a_direction_against_what_is_better_is_told():
    notes = checks.check_metrics(load(["space=demo", "search.metric=val/loss"]))
    assert notes == ["the search will maximize val/loss, of which smaller values are better"]


def test_metrics_of_ones_own_are_kept_with_the_plan(modules, tmp_path):
    told = checks.own_metrics(config(tmp_path))
    assert set(told) == {"val/top2", "test/top2"}
    assert disk.metrics_of({"metrics": told})["val/top2"].label == "top-2"
