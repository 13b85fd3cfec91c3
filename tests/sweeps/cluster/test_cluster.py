"""How many trials fit, and what is said when none does."""

from __future__ import annotations

import pytest

from sweeps.cluster import slots
from sweeps.config.errors import ConfigError
from sweeps.config.settings import ClusterConfig


@pytest.fixture
def nodes(monkeypatch):
    monkeypatch.setattr(slots, "_nodes", lambda: [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0}])


@pytest.mark.parametrize(
    ("settings", "fitting"),
    [
        ({}, 6),
        ({"cpus_per_trial": 2.0}, 3),
        ({"cpus_per_trial": 3.0}, 1),
        ({"cpus_per_trial": 0.5}, 12),
        ({"num_concurrent": 4}, 4),
        ({"gpus_per_trial": 1.0}, 1),
        ({"gpus_per_trial": 0.3}, 3),
        ({"gpus_per_trial": 0.1, "cpus_per_trial": 1.0}, 4),
    ],
)
def test_slots_are_what_each_node_fits(nodes, settings, fitting):
    assert slots.num_slots(ClusterConfig(**settings)) == fitting


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"gpus_per_trial": 2.0}, "Set cluster.gpus_per_trial=1"),
        ({"cpus_per_trial": 8.0}, "Set cluster.cpus_per_trial=4"),
    ],
)
def test_a_demand_that_no_node_meets_is_an_error_with_the_fix(nodes, settings, fix):
    key, value = next(iter(settings.items()))
    with pytest.raises(ConfigError, match=rf"cluster.{key}={value:g}.*4 CPUs and 1 GPUs.*{fix}"):
        slots.check(ClusterConfig(**settings))
