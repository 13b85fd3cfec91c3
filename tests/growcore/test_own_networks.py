import pytest
import torch
from torch import nn

from growcore.config import TrialConfig
from growcore.networks import models
from growcore.training import Report, Training, checkpoint

NETWORKS = """
from torch import nn
from growcore.growth import LinearGrowingModule, LinearMergeGrowingModule, RestrictedConv2dGrowingModule
from growcore.sparse import DSConv2d, DSLinear


class Fork(nn.Module):
    def __init__(self, config, image_shape, num_classes):
        super().__init__()
        width = config.widths[0]
        size = image_shape[0] * image_shape[1] * image_shape[2]
        self.stem = nn.Flatten()
        self.left = LinearGrowingModule(size, width, allow_growing=False)
        self.right = LinearGrowingModule(size, width, allow_growing=False, use_bias=False)
        body = nn.Sequential(nn.ReLU(), nn.Dropout(0.3))
        self.body = LinearGrowingModule(width, width, allow_growing=False, post_layer_function=body)
        self.out = LinearGrowingModule(width, num_classes, previous_module=self.body)
        norm = nn.Sequential(nn.BatchNorm1d(width), nn.ReLU())
        self.joined = LinearMergeGrowingModule(norm, [self.left, self.right], [self.body])
        self.body.layer = DSLinear.from_linear(self.body.layer, strength="magnitude", k1=0.5, k2=0.8)

    def forward(self, x):
        x = self.stem(x)
        return self.out(self.body(self.joined(self.left(x) + self.right(x))))


class Stiff(nn.Module):
    def __init__(self, config, image_shape, num_classes):
        super().__init__()
        self.out = nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], num_classes)

    def forward(self, x):
        return self.out(x.flatten(1))


MODELS = {"fork": Fork, "stiff": Stiff}
"""


@pytest.fixture(autouse=True)
def _networks(tmp_path, monkeypatch):
    (tmp_path / "networks_of_mine.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)


def config(name: str = "fork", **changes: object) -> TrialConfig:
    values: dict = {
        "data": {"name": "synthetic", "num_train": 200},
        "model": {"name": name, "widths": [4]},
        "growth": {"method": "tiny", "num_neurons": 2, "statistics_batches": 2, "line_search_batches": 1},
        "pruning": {"method": "hebbian", "k1": 0.5, "k2": 0.8, "update_interval": 2},
        "optimizer": {"lr": 0.05},
        "training": {"num_epochs": 4, "batch_size": 50},
        "imports": ["networks_of_mine"],
    }
    return TrialConfig.from_dict(values | changes)


def without_time(report: Report) -> dict:
    values = report.to_dict()
    del values["metrics"]["cost/wall_seconds"]
    return values


def test_a_network_of_ones_own_grows_and_is_pruned_and_resumes_bit_for_bit(tmp_path):
    whole = Training(config())
    expected = [without_time(report) for report in whole]
    kinds = {(edit["layer"], edit["kind"]) for report in expected for edit in report["edits"]}
    assert {("left-right", "grow"), ("body", "grow"), ("body", "prune")} <= kinds
    assert models.widths(whole.model)["left-right"] > 4
    first = Training(config())
    told = []
    for report in first:
        told.append(without_time(report))
        if len(told) == 2:
            break
    path = checkpoint.save(tmp_path / "checkpoints", first)
    second = Training(config())
    checkpoint.load(path, second)
    told += [without_time(report) for report in second]
    assert told == expected
    for (name, a), (_, b) in zip(
        whole.model.state_dict().items(), second.model.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def test_a_network_without_growing_layers_says_why_it_cannot_grow_before_anything_is_trained():
    training = Training(config("stiff", pruning={"method": "none"}, growth={"method": "none"}))
    assert isinstance(training.model, nn.Module)
    with pytest.raises(ValueError, match=r"no pair of layers that can grow: a growing layer"):
        models.grow_pairs(training.model)
    with pytest.raises(ValueError, match=r"no pair of layers that can grow"):
        list(Training(config("stiff", pruning={"method": "none"})))
