import pytest

from growcore.config import TrialConfig
from growcore.edits.planning import planned_cost
from growcore.training import Training


def config(growth: dict, **training: int) -> TrialConfig:
    return TrialConfig.from_dict(
        {
            "data": {"name": "synthetic", "num_train": 300},
            "model": {"name": "conv", "widths": [3, 4, 4]},
            "growth": growth,
            "training": {"num_epochs": 4, "batch_size": 50, **training},
        }
    )


def test_the_plan_of_a_network_that_does_not_grow_is_what_its_training_costs():
    setting = config({"method": "none"})
    last = list(Training(setting))[-1]
    plan = planned_cost(setting)
    assert plan.training_flops == last.metrics["cost/train_flops"]
    assert plan.parameters == last.metrics["model/parameters"]
    assert plan.forward_flops == last.metrics["model/forward_flops"]


@pytest.mark.parametrize("where", ["all", "round_robin"])
def test_the_plan_of_a_growing_network_ends_at_the_size_that_full_growth_reaches(where):
    # Random growth accepts every neuron, so the plan must come true; its statistics cost a little more.
    growth = {"method": "random", "every_epochs": 1, "num_neurons": 2, "where": where, "max_width": 7}
    setting = config(growth)
    reports = list(Training(setting))
    last = reports[-1]
    plan = planned_cost(setting)
    assert plan.parameters == last.metrics["model/parameters"]
    assert plan.forward_flops == last.metrics["model/forward_flops"]
    assert {
        f"model/width/{name}": width for name, width in plan.widths.items()
    }.items() <= last.metrics.items()
    # Where every layer is full, a growth is due that brings nothing.
    assert {e.epoch for r in reports for e in r.edits} <= set(plan.growth_epochs) == {1, 2, 3}
    assert plan.training_flops <= last.metrics["cost/train_flops"] <= 1.5 * plan.training_flops


def test_a_layer_grows_to_a_limit_of_its_own_and_the_plan_says_so():
    setting = config({"method": "random", "every_epochs": 1, "num_neurons": 2, "max_width": [5, 4, None]})
    last = list(Training(setting))[-1]
    plan = planned_cost(setting)
    assert list(plan.widths.values()) == [5, 4, 10]  # from 3, 4, 4 by three growths of two
    assert {f"model/width/{name}": w for name, w in plan.widths.items()}.items() <= last.metrics.items()


def test_planning_changes_nothing_that_training_draws_from():
    setting = config({"method": "tiny", "num_neurons": 2})
    alone = list(Training(setting))[-1].metrics["val/loss"]
    training = Training(setting)
    planned_cost(setting)
    assert list(training)[-1].metrics["val/loss"] == alone
