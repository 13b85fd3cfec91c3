"""What a trial costs beside its training: worker start-up with and without reuse, asking and telling.

    python scripts/bench_sweep.py [--trials 20]

Each row runs trials of one report that train nothing, two at a time, on a local Ray.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ray import tune

from sweeps import cluster, compose
from sweeps.config import ClusterConfig
from sweeps.leaderboard import columns
from sweeps.search import Outcome, SamplerSettings, Study, study_url
from sweeps.space import SearchSpace

NUM_SLOTS = 2


class Trivial(tune.Trainable):
    """One report, at once; imports torch as every real trial does."""

    def setup(self, config: dict[str, Any]) -> None:
        import torch  # noqa: F401

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        return {"done": True, "value": 1.0, "began": time.time(), "pid": os.getpid()}


def run_trials(num_trials: int, reuse: bool) -> float:
    """Mean seconds of a slot from one trial's report to the next's, the first of each slot left out.

    A reused worker is its slot, so its own reports are compared; new workers are taken as NUM_SLOTS slots.
    """
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(Trivial, {"cpu": 1}),
            param_space={"x": tune.grid_search(list(range(num_trials)))},
            tune_config=tune.TuneConfig(reuse_actors=reuse, max_concurrent_trials=NUM_SLOTS),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        results = tuner.fit()
    reports = sorted((r.metrics["began"], r.metrics["pid"]) for r in results if r.metrics is not None)
    if reuse:
        slots = [[began for began, pid in reports if pid == each] for each in {pid for _, pid in reports}]
        gaps = [b - a for slot in slots for a, b in itertools.pairwise(slot)]
        return sum(gaps) / len(gaps)
    warm = [began for began, _ in reports[NUM_SLOTS:]]
    return NUM_SLOTS * (warm[-1] - warm[0]) / (len(warm) - 1)


def time_study(num_trials: int) -> tuple[float, float]:
    """Median seconds of an ask and of a tell at this number of trials, on SQLite."""
    config = compose.load(["space=demo"])
    space = SearchSpace.of(config)
    with tempfile.TemporaryDirectory() as folder:
        study = Study.create(study_url(Path(folder)), "bench", SamplerSettings())
        asks, tells = [], []
        for number in range(num_trials):
            start = time.perf_counter()
            assert study.ask(space) is not None
            asked = time.perf_counter()
            study.complete(number, number % 7 / 7, Outcome(metrics={"val/accuracy": 0.5}))
            asks.append(asked - start)
            tells.append(time.perf_counter() - asked)
    return statistics.median(asks[-10:]), statistics.median(tells[-10:])


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20, help="trials per row")
    num_trials = parser.parse_args().trials
    rows = [["workers", "slot seconds a trial"]]
    with cluster.connected(ClusterConfig()):
        for reuse in (False, True):
            seconds = run_trials(num_trials, reuse)
            rows.append(["reused" if reuse else "a new one each", f"{seconds:.3f}"])
    print("\n".join(columns(rows, left={0})))
    rows = [["trials so far", "ms an ask", "ms a tell"]]
    for num in (20, 100):
        ask, tell = time_study(num)
        rows.append([str(num), f"{1000 * ask:.0f}", f"{1000 * tell:.0f}"])
    print("\n" + "\n".join(columns(rows)))


if __name__ == "__main__":
    main()
