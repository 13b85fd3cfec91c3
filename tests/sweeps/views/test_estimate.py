"""What a sweep will cost: plans of sampled trials, and seconds of this machine."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from growcore.config import TrialConfig
from growcore.edits import planning
from growcore.training import Training
from sweeps.cluster.slots import num_local_slots
from sweeps.config.compose import load
from sweeps.config.settings import ClusterConfig, SweepConfig
from sweeps.space.search_space import SearchSpace
from sweeps.views import estimate, plan, tables

SMALL = ("data=synthetic", "data.num_train=200", "training.num_epochs=4", "sweep.num_trials=10")


@pytest.fixture(scope="module")
def config() -> SweepConfig:
    return load(["space=demo", *SMALL])


@pytest.fixture(scope="module")
def found(config) -> estimate.Estimate:
    return estimate.estimate(config, SearchSpace.of(config))


def searching_lr(*words: str) -> SweepConfig:
    search = "optimizer.lr={float: [1e-3, 1e-1], log: true}"
    return load(["space=none", *SMALL, "growth=none", "pruning=none", *words], searches=[search])


def estimated(*words: str) -> estimate.Estimate:
    config = searching_lr(*words)
    return estimate.estimate(config, SearchSpace.of(config))


def shown(config: SweepConfig, capsys: pytest.CaptureFixture[str]) -> str:
    tables.show(plan.cost(config, SearchSpace.of(config)))
    return capsys.readouterr().out


def test_trials_are_ordered_by_their_train_flops_and_planned_as_the_core_plans_them(config, found):
    space = SearchSpace.of(config)
    kinds = (found.smallest, found.median, found.largest)
    assert all(a.train_flops <= b.train_flops for a, b in pairwise(kinds))
    assert found.smallest.train_flops < found.largest.train_flops
    for each in kinds:
        planned = planning.planned_cost(space.apply(each.values))
        assert (each.parameters, each.train_flops) == (planned.parameters, planned.training_flops)
        assert each.seconds > 0


def test_the_sweep_takes_the_mean_trial_as_often_as_slots_take_turns(config, found):
    assert found.smallest.seconds is not None
    assert found.sweep_seconds == pytest.approx(found.mean_seconds * 10 / min(10, found.num_slots))
    every = [each.seconds for each in (found.smallest, found.median, found.largest)]
    assert min(every) <= found.mean_seconds <= max(every)


def test_an_estimate_agrees_with_the_training_it_foretells():
    """Within a factor of four either way: tests share their machine with others."""
    config = searching_lr("data=digits", "data.num_train=null", "training.num_epochs=12")
    space = SearchSpace.of(config)
    median = estimate.estimate(config, space).median
    last = list(Training(space.apply(median.values)))[-1].metrics
    assert last["cost/train_flops"] == median.train_flops
    assert last["model/parameters"] == median.parameters
    assert median.seconds / 4 < last["cost/wall_seconds"] < median.seconds * 4


def test_memory_counts_weights_gradients_optimizer_state_activations_and_data():
    words = ("model=mlp", "model.widths=[16]", "training.batch_size=50", "optimizer=adam")
    adam = estimated(*words).largest
    data = Training(searching_lr(*words).trial).data
    images = sum(part.x_NCHW.numel() + 8 * len(part) for part in (data.train, data.val, data.test))
    weights = 4 * adam.parameters
    # Weights, gradients and the two moments of Adam; its step counter is 4 bytes for each of 4 tensors.
    held = images + 4 * weights + 4 * 4
    # Kept for the backward pass: the input, the hidden layer once (ReLU keeps its output, which the next
    # layer reads), the log-probabilities, the labels, and the sum of the loss's weights.
    activations = 50 * (4 * (data.train.x_NCHW[0].numel() + 16 + 10) + 8) + 4
    assert adam.memory_bytes == held + activations


@pytest.fixture(scope="module")
def once_and_thrice() -> tuple[estimate.Estimate, estimate.Estimate]:
    words = ("model=mlp", "model.widths=[16]", "optimizer=adam")
    return estimated(*words), estimated(*words, "sweep.replicates=3")


def test_replicates_multiply_flops_and_seconds_and_leave_what_is_sampled(once_and_thrice):
    once, thrice = once_and_thrice
    assert thrice.largest.values == once.largest.values
    assert thrice.largest.parameters == once.largest.parameters
    assert thrice.largest.train_flops == 3 * once.largest.train_flops
    assert thrice.mean_train_flops == 3 * once.mean_train_flops
    every = [each.seconds for each in (thrice.smallest, thrice.median, thrice.largest)]
    assert min(every) <= thrice.mean_seconds <= max(every)


def test_seconds_are_those_of_every_replicate(monkeypatch, once_and_thrice):
    monkeypatch.setattr(estimate, "_trial_seconds", lambda planned, start, end: 7.0)
    assert estimated("sweep.replicates=3").mean_seconds == pytest.approx(21.0)


def test_every_replicate_holds_a_network_and_an_optimizer_while_data_is_there_once(once_and_thrice):
    once, thrice = (each.largest for each in once_and_thrice)
    # Weights, gradients and the two moments of Adam; its step counter is 4 bytes for each of 4 tensors.
    own = 4 * 4 * once.parameters + 4 * 4
    assert thrice.memory_bytes - once.memory_bytes == 2 * own


def test_the_plan_counts_configurations_where_each_is_trained_several_times(
    config, found, capsys, monkeypatch
):
    monkeypatch.setattr(estimate, "estimate", lambda config, space: found)
    text = shown(load(["space=demo", *SMALL, "sweep.replicates=3"]), capsys)
    assert "cost of a configuration, all 3 seeds" in text
    assert "10 configurations of" in text
    assert "10 trials of" not in text
    unlimited = ("sweep.replicates=3", "sweep.num_trials=null", "sweep.max_hours=2")
    assert "a configuration; 2 h ends the sweep" in shown(load(["space=demo", *SMALL, *unlimited]), capsys)


def test_a_larger_batch_needs_more_memory_and_the_same_flops():
    small, large = (estimated(f"training.batch_size={size}").median for size in (10, 100))
    assert large.memory_bytes > small.memory_bytes
    assert large.train_flops == small.train_flops


def test_a_growing_trial_costs_its_growths_too():
    planned = TrialConfig.from_dict(
        {
            "data": {"name": "synthetic", "num_train": 200},
            "model": {"name": "conv", "widths": [3, 3]},
            "growth": {"method": "tiny", "num_neurons": 2},
            "training": {"num_epochs": 4, "batch_size": 50},
        }
    )
    cost = planning.planned_cost(planned)
    each = estimate._Planned(values={}, config=planned, cost=cost)
    start, end = estimate._probes(each, "cpu")
    assert start.growth_seconds > 0
    assert start.flops < cost.training_flops / 16 < end.flops  # 16 steps of 50 images
    without = estimate._trial_seconds(
        each, replace(start, growth_seconds=0.0), replace(end, growth_seconds=0.0)
    )
    grown = estimate._trial_seconds(each, start, end) - without
    assert grown == pytest.approx(len(cost.growth_epochs) * (start.growth_seconds + end.growth_seconds) / 2)


def test_steps_between_two_widths_take_the_seconds_between():
    planned = TrialConfig.from_dict(
        {
            "data": {"name": "synthetic", "num_train": 100, "val_fraction": 0.25},
            "model": {"name": "mlp", "widths": [3]},
            "training": {"num_epochs": 5, "batch_size": 10},
        }
    )
    cost = replace(planning.planned_cost(planned), training_flops=50 * 175, growth_epochs=())
    each = estimate._Planned(values={}, config=planned, cost=cost)
    start = estimate._Probe(seconds=1.0, growth_seconds=0.0, flops=100, own_bytes=0, shared_bytes=0)
    end = estimate._Probe(seconds=3.0, growth_seconds=0.0, flops=200, own_bytes=0, shared_bytes=0)
    data = Training(planned).data
    evaluated = 1 + len(data.val) / len(data.train) / 3
    # 50 steps of 175 FLOPs on average: three quarters of the way from 1 s to 3 s.
    assert estimate._trial_seconds(each, start, end) == pytest.approx(50 * 2.5 * evaluated)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_without_the_device_sizes_are_known_and_seconds_are_not(capsys):
    config = searching_lr("cluster.gpus_per_trial=0.5")
    found = estimate.estimate(config, SearchSpace.of(config))
    assert found.median.memory_bytes > 0
    assert (found.median.seconds, found.mean_seconds, found.sweep_seconds) == (None, None, None)
    assert "unknown: this machine has no cuda device to time a trial on" in shown(config, capsys)


def test_only_a_cluster_knows_its_slots(capsys):
    address = "cluster.address=ray://nowhere:10001"
    config = searching_lr(address)
    assert estimate.estimate(config, SearchSpace.of(config)).sweep_seconds is None
    assert "how many slots there are, only the cluster knows" in shown(config, capsys)
    limited = searching_lr(address, "cluster.num_concurrent=3")
    assert estimate.estimate(limited, SearchSpace.of(limited)).num_slots == 3


@pytest.mark.parametrize(
    ("settings", "slots"),
    [({}, 8), ({"cpus_per_trial": 3.0}, 2), ({"gpus_per_trial": 0.4}, 2), ({"num_concurrent": 5}, 5)],
)
def test_slots_of_this_machine_are_what_fits(settings, slots):
    assert num_local_slots(ClusterConfig(**settings), num_cpus=8, num_gpus=1) == slots


def test_the_plan_tells_cost_and_that_stopping_shortens_it(config, found, capsys, monkeypatch):
    monkeypatch.setattr(estimate, "estimate", lambda config, space: found)
    text = shown(config, capsys)
    for part in (
        "cost of a whole trial",
        "smallest",
        "parameters at the end",
        "memory",
        "of 16 sampled trials",
        "the largest: optimizer.lr=",
        "10 trials of",
        "less where asha stops early",
    ):
        assert part in text
    assert "stops early" not in shown(load(["space=demo", *SMALL, "scheduler=none"]), capsys)


def test_missing_data_is_said_and_never_downloaded(capsys, tmp_path):
    words = ["data=fashion_mnist", f"data.root={tmp_path}", "data.download=true"]
    text = " ".join(shown(load(words), capsys).split())
    assert "cost: not estimated, as a sampled trial cannot be built here: data.name=fashion_mnist" in text
    assert list(tmp_path.iterdir()) == []
