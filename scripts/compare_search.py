"""Does a sampler find better networks than random search? Two objectives, equal train FLOPs.

    python scripts/compare_search.py --data-root /path/to/data [--trials 24] [--samplers tpe random]

The first sampler runs so many trials to their ends; what those cost in train FLOPs is the budget of the
others, seed by seed. Objectives: validation accuracy up, parameters that are not zero down. Printed, as
Markdown: the Pareto front of each sampler and seed, and the hypervolume it dominates at equal FLOPs: over
accuracy above chance and the logarithm of the parameters, from 10^2 to 10^5, as a share of that rectangle.
--figure PATH.png draws the fronts. Without --data-root: scikit-learn's digits. Other words, GROUP=OPTION and
KEY=VALUE, go to every sweep. Sweeps of an earlier run in --root are read, not run again.
"""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.config.compose import load
from sweeps.kept.trials import TrialRow, TrialState
from sweeps.run import sweep

CHANCE = 0.1  # ten classes
LEAST, MOST = 1e2, 1e5  # parameters
OBJECTIVES = "search.further_objectives={model/nonzero_parameters: minimize}"


@dataclass(frozen=True)
class Point:
    """A complete trial."""

    number: int
    accuracy: float  # on validation images
    test_accuracy: float
    nonzero: float
    spent: float  # train FLOPs of the sweep when it ended


def main() -> None:
    """Run what was not run yet, then print and draw."""
    arguments = _arguments()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    found: dict[tuple[str, int], list[Point]] = {}
    for seed in range(arguments.seeds):
        budget = None
        for sampler in arguments.samplers:
            points = _run(arguments, sampler, seed, budget)
            found[sampler, seed] = points
            budget = budget or points[-1].spent
    for seed in range(arguments.seeds):
        _print(arguments.samplers, seed, found)
    if arguments.figure:
        _draw(arguments, found)


def _run(arguments: argparse.Namespace, sampler: str, seed: int, budget: float | None) -> list[Point]:
    name = f"{sampler}-{seed}"
    limit = [f"sweep.num_trials={arguments.trials}"]
    if budget is not None:
        limit = ["sweep.num_trials=null", f"sweep.max_train_flops={budget!r}"]
    data = ["data=digits"]
    if arguments.data_root:
        data = ["data=fashion_mnist", f"data.root={arguments.data_root.absolute()}", "data.num_train=10000"]
    words = [
        *data,
        f"space={arguments.space}",
        "scheduler=none",
        f"search={sampler}",
        f"search.seed={seed}",
        OBJECTIVES,
        f"storage.root={arguments.root.absolute()}",
        f"sweep.name={name}",
        *limit,
        *arguments.words,
    ]
    config = load(words)
    if (arguments.root / name).exists():
        result = sweep.resume(arguments.root, name)
    else:
        result = sweep.launch(config, name, ["scripts/compare_search.py", *words])
    return _points(result.study.rows())


def _points(rows: list[TrialRow]) -> list[Point]:
    """Complete trials in the order they ended; every trial's FLOPs count."""
    spent, points = 0.0, []
    for row in sorted((row for row in rows if row.ended is not None), key=lambda row: row.ended or 0):
        metrics = row.outcome.metrics
        spent += metrics.get("cost/train_flops", 0.0)
        if row.state is TrialState.complete:
            accuracy, nonzero = row.values
            points.append(Point(row.number, accuracy, metrics["test/accuracy"], nonzero, spent))
    return points


def _front(points: list[Point]) -> list[Point]:
    """Which no other beats, smallest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.nonzero, -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def _hypervolume(points: list[Point]) -> float:
    """Share of the rectangle accuracy x log parameters that a front dominates."""
    scale, area = math.log(MOST / LEAST), 0.0
    front = _front(points)
    for point, following in zip(front, [*front[1:], None], strict=True):
        right = MOST if following is None else following.nonzero
        width = math.log(min(right, MOST) / max(point.nonzero, LEAST)) / scale
        area += max(0.0, width) * max(0.0, point.accuracy - CHANCE) / (1 - CHANCE)
    return area


def _print(samplers: list[str], seed: int, found: dict[tuple[str, int], list[Point]]) -> None:
    equal = min(found[sampler, seed][-1].spent for sampler in samplers)
    print(f"\n### Seed {seed}, at {equal / 1e12:.3g} train TFLOP each\n")
    print(
        "| sampler | trials | hypervolume | best val acc | front: non-zero parameters, val acc (test acc) |"
    )
    print("|---|---|---|---|---|")
    for sampler in samplers:
        points = [point for point in found[sampler, seed] if point.spent <= equal]
        front = "; ".join(
            f"{p.nonzero:,.0f}, {p.accuracy:.4f} ({p.test_accuracy:.4f})" for p in _front(points)
        )
        best = max(point.accuracy for point in points)
        print(f"| {sampler} | {len(points)} | {_hypervolume(points):.4f} | {best:.4f} | {front} |")


def _draw(arguments: argparse.Namespace, found: dict[tuple[str, int], list[Point]]) -> None:
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes: Any = drawing.subplots()
    for index, sampler in enumerate(arguments.samplers):
        for seed in range(arguments.seeds):
            equal = min(found[other, seed][-1].spent for other in arguments.samplers)
            points = [point for point in found[sampler, seed] if point.spent <= equal]
            front = _front(points)
            colour = f"C{index}"
            label = f"{sampler}, hypervolume {_hypervolume(points):.3f}" if seed == 0 else None
            axes.scatter(*_coordinates(points), s=10, color=colour, alpha=0.35)
            axes.step(*_coordinates(front), where="post", color=colour, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("parameters that are not zero")
    axes.set_ylabel("validation accuracy")
    best = max(point.accuracy for points in found.values() for point in points)
    axes.set_ylim(max(CHANCE, best - 0.25), best + 0.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    drawing.savefig(arguments.figure)


def _coordinates(points: list[Point]) -> tuple[list[float], list[float]]:
    return [point.nonzero for point in points], [point.accuracy for point in points]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare samplers at two objectives and equal train FLOPs.")
    parser.add_argument("--data-root", type=Path, help="Folder that holds FashionMNIST; without it: digits.")
    parser.add_argument("--samplers", nargs="+", default=["tpe", "random"], help="The first sets the budget.")
    parser.add_argument("--trials", type=int, default=24, help="Of the first sampler.")
    parser.add_argument("--seeds", type=int, default=1, help="Searches of each sampler.")
    parser.add_argument("--space", default="grow_prune", help="A shipped space, or one of yours.")
    parser.add_argument("--root", type=Path, default=Path("runs/compare-search"), help="Where the sweeps go.")
    parser.add_argument("--figure", type=Path, help="PNG file.")
    parser.add_argument("words", nargs="*", help="GROUP=OPTION and KEY=VALUE of every sweep.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
