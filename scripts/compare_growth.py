"""Does growing pay? A network grown from a quarter of its width beside fixed ones, at equal epochs.

    python scripts/compare_growth.py --data-root /path/to/data [--num-train 10000] [--seeds 3] [--epochs 10]

Each method sees the same images, split and batches; the rows differ in nothing but how the network gets its
width. Printed: test accuracy (mean and standard deviation over seeds), parameters at the end, training FLOPs
(growth statistics and line search included) and seconds. Without --data-root: scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from growcore.config import TrialConfig
from growcore.training import Training

FULL = [16, 16, 16, 16]
SMALL = [4, 4, 4, 4]


def main() -> None:
    """Print the table."""
    arguments = _arguments()
    torch.set_num_threads(1)
    print(f"{'network':<24} {'test accuracy':>17} {'parameters':>11} {'train GFLOP':>12} {'seconds':>8}")
    for name, change in _rows(arguments.epochs).items():
        runs = [_run(arguments, change, seed) for seed in range(arguments.seeds)]
        accuracies = [run["accuracy"] for run in runs]
        deviation = statistics.stdev(accuracies) if len(runs) > 1 else 0.0
        middle = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        print(
            f"{name:<24} {middle['accuracy']:>8.4f} +- {deviation:.4f} {middle['parameters']:>11,.0f} "
            f"{middle['flops'] / 1e9:>12,.0f} {middle['seconds']:>8.1f}",
            flush=True,
        )


def _rows(num_epochs: int) -> dict[str, dict[str, Any]]:
    def grown(method: str) -> dict[str, Any]:
        # Three growths reach the full width of every layer that can grow.
        timing = {"start_epoch": 1, "every_epochs": max(num_epochs // 8, 1), "end_fraction": 0.75}
        growth = {"method": method, "num_neurons": 4, "max_width": FULL[0], **timing}
        return {"model": {"widths": SMALL}, "growth": growth}

    return {
        "fixed, full width": {"model": {"widths": FULL}},
        "fixed, quarter width": {"model": {"widths": SMALL}},
        "grown by tiny": grown("tiny"),
        "grown by gradmax": grown("gradmax"),
        "grown by random": grown("random"),
        "grown by zeros": grown("zeros"),
        "grown, variance transfer": grown("variance_transfer"),
    }


def _run(arguments: argparse.Namespace, change: dict[str, Any], seed: int) -> dict[str, float]:
    data: dict[str, Any] = {"name": "digits"}
    if arguments.data_root is not None:
        data = {"name": "fashion_mnist", "root": arguments.data_root, "num_train": arguments.num_train}
    values = {
        "data": data,
        "model": {"name": "conv", "normalization": "batch", **change["model"]},
        "growth": change.get("growth", {"method": "none"}),
        "optimizer": {"lr": 0.05},
        "training": {"num_epochs": arguments.epochs, "batch_size": 64},
        "seed": seed,
    }
    started = time.perf_counter()
    *_, last = Training(TrialConfig.from_dict(values))
    return {
        "accuracy": last.metrics["test/accuracy"],
        "parameters": last.metrics["model/parameters"],
        "flops": last.metrics["cost/train_flops"],
        "seconds": time.perf_counter() - started,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-root", help="folder that holds FashionMNIST")
    parser.add_argument("--num-train", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
