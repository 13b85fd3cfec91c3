"""The examples of docs/own_methods.md: found by `imports`, trained with, checkpointed and resumed."""

import itertools
import re
from pathlib import Path

import pytest

from growcore import keys, metrics
from growcore.config import TrialConfig
from growcore.training import Report, Training, checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "own_methods.md"
NAMES = ("quiet_growth", "middle_out", "two_guesses")
EXAMPLES = dict(zip(NAMES, re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S), strict=True))


@pytest.fixture(autouse=True)
def _modules(tmp_path, monkeypatch):
    for name, text in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


def config(**changes: object) -> TrialConfig:
    values: dict = {
        "data": {"name": "digits", "num_train": 120},
        "model": {"name": "resnet", "widths": [4], "blocks": [1], "normalization": "batch"},
        "growth": {"method": "quiet", "num_neurons": 2, "options": {"share": 0.2}, "end_fraction": 1.0},
        "pruning": {"method": "middle_out", "k2": 0.5, "end_fraction": 1.0},
        "training": {"num_epochs": 4, "batch_size": 30},
        "imports": list(EXAMPLES),
    }
    return TrialConfig.from_dict(values | changes)


def without_time(report: Report) -> dict:
    values = report.to_dict()
    del values["metrics"]["cost/wall_seconds"]
    return values


def test_methods_and_metrics_of_ones_own_train_and_resume_bit_for_bit(tmp_path):
    expected = [without_time(report) for report in Training(config())]
    reasons = [edit["reason"] for report in expected for edit in report["edits"]]
    assert any("2 neurons by quiet" in reason for reason in reasons)
    assert any("farthest from the median magnitude pruned" in reason for reason in reasons)
    assert expected[-1]["metrics"]["val/top2"] >= expected[-1]["metrics"]["val/accuracy"]
    assert expected[-1]["metrics"]["test/top2"] >= expected[-1]["metrics"]["test/accuracy"]
    first = Training(config())
    told = [without_time(report) for report in itertools.islice(first, 2)]
    path = checkpoint.save(tmp_path / "checkpoints", first)
    second = Training(config())
    checkpoint.load(path, second)
    assert told + [without_time(report) for report in second] == expected


def test_density_is_what_the_method_leaves():
    *_, last = Training(config(growth={"method": "none"}))
    densities = [v for key, v in last.metrics.items() if key.startswith("sparse/density/")]
    assert densities == [pytest.approx(0.5, abs=0.02)] * len(densities)


def test_an_option_changes_what_is_drawn_and_its_default_stands_where_it_is_not_given():
    def first_growth(**options: float) -> float:
        growth = {"method": "quiet", "num_neurons": 2, "options": options, "end_fraction": 1.0}
        for report in Training(config(growth=growth)):
            if grown := [e for e in report.edits if e.kind == "grow"]:
                return grown[0].realised_decrease
        raise AssertionError

    assert first_growth() == first_growth(share=0.1) != first_growth(share=0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shar": 0.2}, r"growth.options.shar is no option of growth.method=quiet. Did you mean 'share'"),
        ({"share": 2.0}, r"growth.options.share must lie in \[0, 1\]; got 2.0"),
        ({"share": "much"}, r"growth.options.share must be of type float; got 'much'"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_built(options, message):
    growth = {"method": "quiet", "options": options}
    with pytest.raises(ValueError, match=message):
        Training(config(growth=growth))


def test_an_option_of_a_method_that_has_none_is_refused():
    with pytest.raises(ValueError, match=r"no option of growth.method=tiny. It has none"):
        Training(config(growth={"method": "tiny", "options": {"share": 0.2}}))


def test_keys_without_effect_follow_from_objects_of_ones_own():
    idle = keys.without_effect(config(), ["growth.init", "growth.normalization", "pruning.k1", "pruning.k2"])
    assert list(idle) == ["growth.normalization", "pruning.k1"]
    effects = keys.effects(list(EXAMPLES))
    assert str(effects["growth.options.share"]) == "growth.method == quiet"
    assert "middle_out" in str(effects["pruning.k2"])
    assert "growth.options.share" in keys.known_keys(list(EXAMPLES))


def test_a_metric_of_ones_own_can_be_searched_for():
    metrics.check("val/top2", ["two_guesses"], to_search=True)
    with pytest.raises(ValueError, match=r"Did you mean 'val/top2'"):
        metrics.check("val/top", ["two_guesses"], to_search=True)


def test_a_metric_that_nothing_measures_is_refused(tmp_path):
    (tmp_path / "no_measure.py").write_text(EXAMPLES["two_guesses"].replace("        measure=top2,\n", ""))
    with pytest.raises(ValueError, match=r"'val/top2' without a function that measures it"):
        metrics.known(["no_measure"])


def test_a_name_that_no_module_has_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"Unknown name 'quie' among GROWTH_METHODS. Did you mean 'quiet'"):
        for _ in Training(config(growth={"method": "quie"})):
            pass
