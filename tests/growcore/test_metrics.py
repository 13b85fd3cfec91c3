"""One table of metrics: what trainings report stands in it, and what is asked for is checked against it."""

import re

import pytest

from growcore import metrics
from growcore.config import TrialConfig
from growcore.metrics import METRICS, Direction, Place
from growcore.training import Training

VALUES = {
    "data": {"name": "digits", "num_train": 100},
    "model": {"name": "conv", "widths": [4, 4, 4], "normalization": "batch"},
    "growth": {"method": "tiny", "num_neurons": 2, "end_fraction": 1.0},
    "pruning": {"method": "hebbian", "k1": 0.4, "k2": 0.6, "end_fraction": 1.0},
    "training": {"num_epochs": 3, "batch_size": 25},
}


@pytest.fixture(scope="module")
def reports():
    return list(Training(TrialConfig.from_dict(VALUES)))


def test_every_metric_of_a_training_stands_in_the_table_and_none_stands_there_that_is_never_reported(reports):
    reported = {key for report in reports for key in report.metrics}
    for key in reported:
        assert metrics.find(key) is not None, key
    for pattern in METRICS:
        expression = re.escape(pattern).replace("<layer>", ".+").replace("<class>", ".+")
        assert any(re.fullmatch(expression, key) for key in reported), pattern


def test_what_is_said_to_be_in_every_report_is(reports):
    for report in reports:
        for pattern, metric in METRICS.items():
            if metric.in_every_report:
                expression = re.escape(pattern).replace("<layer>", ".+").replace("<class>", ".+")
                assert any(re.fullmatch(expression, key) for key in report.metrics), pattern


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("val/acuracy", r"No report holds a metric 'val/acuracy'. Did you mean 'val/accuracy'\?"),
        ("model/params", r"Did you mean 'model/parameters'\?"),
        ("acc", r"Known: val/accuracy"),
        ("growth/realised_decrease", r"is not in every report, so trials cannot be compared by it"),
        ("preflight/output_rms/conv1", r"is not in every report"),
    ],
)
def test_a_metric_that_cannot_be_searched_for_is_refused(key, message):
    with pytest.raises(ValueError, match=message):
        metrics.check(key, to_search=True)


@pytest.mark.parametrize(
    "key", ["val/loss", "val/accuracy/7", "model/width/conv1", "activity/dead_fraction/a-b"]
)
def test_metrics_of_classes_and_layers_can_be_searched_for(key):
    metrics.check(key, to_search=True)


def test_labels_name_the_layer_or_class_where_there_are_several():
    assert metrics.label("val/accuracy") == "val acc"
    assert metrics.label("val/accuracy/shirt") == "val acc shirt"
    assert metrics.label("model/width/conv1") == "width conv1"
    assert metrics.label("of/a/stranger") == "of/a/stranger"


def test_columns_have_heads_of_their_own():
    for place in Place:
        labels = [metric.label for metric in metrics.shown(place).values()]
        assert len(set(labels)) == len(labels)


def test_values_are_written_as_their_unit_asks():
    assert METRICS["val/accuracy"].written(0.91372) == "0.9137"
    assert METRICS["model/parameters"].written(48210.0) == "48,210"
    assert METRICS["cost/train_flops"].written(3.14e9) == "3.14"
    assert METRICS["cost/wall_seconds"].written(1.234) == "1.2"
    assert METRICS["val/loss"].better is Direction.minimize
