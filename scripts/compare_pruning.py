"""What should judge a connection? Every strength and policy at equal final density and equal steps.

    python scripts/compare_pruning.py --data-root /path/to/data [--seeds 3] [--epochs 6] [--jobs 2]

All rows see the same images, split and batches and train for the same steps; they differ in which connections
are alive. What prunes a dense network gets to its density along a cubic schedule; what exchanges connections
is at its density from the start. Each layer has the same density; biases and the classifier stay dense.
Printed, as a Markdown table: the density reached over all prunable layers, test accuracy (mean and standard
deviation over seeds) and processor seconds of one run. Without --data-root: scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from growcore.config import Strength, TrialConfig
from growcore.networks import models
from growcore.sparse.methods import PRUNING_METHODS
from growcore.training import Training

DENSITIES = (0.2, 0.05)
WIDTHS = [12, 20, 32]  # channels; every convolution has stride 2
KEPT_SHARE = 0.8  # k1 / k2: of what is alive after a progression, a fifth has restarted


@dataclass(frozen=True)
class Row:
    """One way to choose connections."""

    name: str
    density: float  # wanted
    pruning: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What one training came to."""

    accuracy: float
    density: float  # achieved
    seconds: float


def main() -> None:
    """Print the table."""
    arguments = _arguments()
    rows = _rows()
    tasks = [(arguments, row, seed) for row in rows for seed in range(arguments.seeds)]
    print("| connections chosen by | density wanted | achieved | test accuracy | seconds |")
    print("|---|---|---|---|---|", flush=True)
    with _mapped(tasks, arguments.jobs) as runs:
        for row in rows:
            print(_line(row, list(itertools.islice(runs, arguments.seeds))), flush=True)


def _rows() -> list[Row]:
    rows = [Row("all (dense)", 1.0, {"method": "none"})]
    for density in DENSITIES:
        rows += [
            Row(f"{strength.value}, k1 and k2", density, _pruned("hebbian", density, strength=strength.value))
            for strength in Strength
        ]
        rows.append(Row("random, k1 and k2", density, _pruned("random", density)))
        rows.append(_per_filter(density))
        rows += [
            _policy(method, density)
            for method in PRUNING_METHODS
            if method not in ("none", "hebbian", "random")
        ]
    return rows


def _pruned(method: str, density: float, **settings: str) -> dict[str, Any]:
    return {"method": method, "k1": KEPT_SHARE * density, "k2": density, "schedule": "cubic", **settings}


def _per_filter(density: float) -> Row:
    # A 3 x 3 kernel that joins one channel to another has 9 connections, of which one at least is kept.
    kept = max(round(density * 9), 1)
    bound = ", cannot go under 1/9" if density < 1 / 9 else ""
    settings = {"k1": kept / 9, "k2": kept / 9, "scope": "filter", "schedule": "cubic"}
    return Row(f"coactivation, {kept} of 9 per filter{bound}", density, {"method": "hebbian", **settings})


def _policy(method: str, density: float) -> Row:
    suffix = " (coactivation)" if method == "hebbian_exchange" else ""
    schedule = "cubic" if method == "gradual" else "cosine"
    settings = {"density": density, "allocation": "uniform", "schedule": schedule}
    return Row(method + suffix, density, {"method": method, **settings})


@contextmanager
def _mapped(tasks: list[Any], num_jobs: int) -> Iterator[Iterator[Run]]:
    """The runs in order, several at a time in processes of their own."""
    if num_jobs == 1:
        yield map(_run, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(num_jobs) as pool:
        yield pool.imap(_run, tasks)


def _run(task: tuple[argparse.Namespace, Row, int]) -> Run:
    arguments, row, seed = task
    data: dict[str, Any] = {"name": "digits", "num_train": min(arguments.num_train, 1000)}
    if arguments.data_root is not None:
        data = {"name": "fashion_mnist", "root": arguments.data_root, "num_train": arguments.num_train}
    values = {
        "data": data,
        "model": {"name": "conv", "widths": WIDTHS, "normalization": "batch", "downsample_every": 1},
        "pruning": row.pruning,
        "optimizer": {"lr": 0.05},
        "training": {
            "num_epochs": arguments.epochs,
            "report_every_epochs": arguments.epochs,
            "batch_size": arguments.batch_size,
        },
        "preflight": "off",
        "seed": seed,
    }
    started = time.process_time()
    training = Training(TrialConfig.from_dict(values))
    *_, last = training
    seconds = time.process_time() - started
    return Run(last.metrics["test/accuracy"], _density(training.model), seconds)


def _density(model: torch.nn.Module) -> float:
    """Share of the connections of all prunable layers that is alive."""
    layers = models.sparse_layers(model).values()
    if not layers:
        return 1.0
    return sum(int(layer.mask.sum()) for layer in layers) / sum(layer.mask.numel() for layer in layers)


def _line(row: Row, runs: list[Run]) -> str:
    accuracies = [run.accuracy for run in runs]
    deviation = statistics.stdev(accuracies) if len(runs) > 1 else 0.0
    density = statistics.mean(run.density for run in runs)
    seconds = statistics.mean(run.seconds for run in runs)
    accuracy = f"{statistics.mean(accuracies):.4f} +- {deviation:.4f}"
    return f"| {row.name} | {row.density:g} | {density:.4f} | {accuracy} | {seconds:.1f} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-root", help="folder that holds FashionMNIST")
    parser.add_argument("--num-train", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each on one core")
    return parser.parse_args()


if __name__ == "__main__":
    main()
