"""Time of growth statistics and solutions beside the gromo package: one thread, medians, same inputs.

Times are processor time, so that other processes on the machine count less; both sides alternate.

    python scripts/bench_growth.py              all rows
    python scripts/bench_growth.py restricted   one of: restricted full linear

Row A is what a growth step needs of one batch whose inputs and gradients are held: S, S_growth, M, and N by
the second pass. gromo has no second pass: there it is S, S_growth, M, M_prev and C, from which N follows.
Row B is update_computation as a whole, with C. Row C is the statistics and the solutions of a linear pair.
Memory is the peak of the process above what it held before the row.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

warnings.simplefilter("ignore")

from gromo.modules import conv2d_growing_module as their_conv  # noqa: E402
from gromo.modules.linear_growing_module import LinearGrowingModule as TheirLinear  # noqa: E402

from growcore.growth import (  # noqa: E402
    FullConv2dGrowingModule,
    LinearGrowingModule,
    RestrictedConv2dGrowingModule,
)

CHANNELS, SIDE, BATCH = 64, 32, 64
FEATURES, ROWS = 512, 1024


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median processor time, after one run that does not count."""
    return both_seconds(function, lambda: None, repeats)[0]


def both_seconds(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int, warm_up: bool = True
) -> tuple[float, float]:
    """Median processor times of two functions that take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + int(warm_up)):
        for function, found in zip((ours, theirs), times, strict=True):
            start = time.process_time()
            function()
            if turn or not warm_up:
                found.append(time.process_time() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def peak_mebibytes(function: Callable[[], object]) -> float:
    """Peak of resident memory during the call above that before it (Linux)."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory would hide what the call needs
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    function()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(key)))


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def forward_backward(modules: list, x: Tensor) -> None:
    """One pass; the gradients of the pre-activations are the new ones only."""
    y = x
    for module in modules:
        y = module(y)
    (y.square() - 1).square().sum().div(4).backward()


def conv_pairs(kind: str) -> tuple[list, list, Tensor]:
    ours_type = RestrictedConv2dGrowingModule if kind == "restricted" else FullConv2dGrowingModule
    theirs_type = (
        their_conv.RestrictedConv2dGrowingModule
        if kind == "restricted"
        else their_conv.FullConv2dGrowingModule
    )
    torch.manual_seed(0)
    pairs = []
    for layer_type in (ours_type, theirs_type):
        size = {"kernel_size": 3, "padding": 1, "input_size": (SIDE, SIDE)}
        first = layer_type(CHANNELS, CHANNELS, post_layer_function=nn.ReLU(), **size)
        second = layer_type(CHANNELS, CHANNELS, previous_module=first, allow_growing=True, **size)
        pairs.append([first, second])
    for mine, other in zip(*pairs, strict=True):
        other.layer.load_state_dict(mine.layer.state_dict())
    return pairs[0], pairs[1], torch.randn(BATCH, CHANNELS, SIDE, SIDE)


def bench_conv(kind: str) -> None:
    ours, theirs, x = conv_pairs(kind)
    for pair in (ours, theirs):
        pair[1].init_computation()
        forward_backward(pair, x)
    mine, other = ours[1], theirs[1]
    passes = seconds(lambda: forward_backward(ours, x), 3)
    # A fresh pass: gradients of repeated passes would have added up.
    for pair in (ours, theirs):
        forward_backward(pair, x)
    mine.update_computation()
    mine.compute_optimal_delta()

    def row_a() -> list[Tensor]:
        with torch.no_grad():
            return [
                mine.compute_s_update()[0],
                mine.compute_m_update()[0],
                mine.tensor_s_growth._update_function()[0],
                mine.compute_n_update()[0],
            ]

    memory_a = peak_mebibytes(row_a)

    def update_b() -> None:
        for statistic in mine.gathered.all():
            statistic.updated = False
        mine.update_computation()

    # One turn of the full convolution takes gromo most of a minute, so there is only one, unwarmed.
    once = kind == "full"
    reference: list[Tensor] = []

    def their_row() -> None:
        reference[:] = their_statistics(other, kind)

    time_a, theirs_time = both_seconds(row_a, their_row, 1 if once else 5, warm_up=not once)
    if once:
        time_a = seconds(row_a, 5)
    time_b = seconds(update_b, 3)
    found = row_a()
    delta = mine.delta_raw
    S, M, M_prev, C, S_growth = reference
    if kind == "restricted":
        N = -M_prev + C @ delta.T
    else:
        N = -M_prev + torch.einsum("abe,ce->bca", C, delta).flatten(1)
    worst = max(
        relative_difference(a, b.reshape(a.shape)) for a, b in zip(found, (S, M, S_growth, N), strict=True)
    )
    name = f"{kind} {CHANNELS}->{CHANNELS} 3x3, {SIDE}x{SIDE}, batch {BATCH}"
    report(f"A {name}", time_a, theirs_time, f"peak {memory_a:.0f} MiB, largest difference {worst:.1e}")
    report(f"B {name}", time_b, theirs_time, "update_computation with C")
    print(f"  forward and backward of the pair: {1e3 * passes:.0f} ms", flush=True)


@torch.no_grad()
def their_statistics(module: object, kind: str) -> list[Tensor]:
    S_growth = module.compute_s_growth_update if kind == "full" else module.previous_module.compute_s_update
    updates = (
        module.compute_s_update,
        module.compute_m_update,
        module.compute_m_prev_update,
        module.compute_cross_covariance_update,
        S_growth,
    )
    return [update()[0] for update in updates]


def bench_linear() -> None:
    torch.manual_seed(0)
    pairs = []
    for layer_type in (LinearGrowingModule, TheirLinear):
        first = layer_type(FEATURES, FEATURES, post_layer_function=nn.ReLU())
        second = layer_type(FEATURES, FEATURES, previous_module=first, allow_growing=True)
        pairs.append([first, second])
    for mine, other in zip(*pairs, strict=True):
        other.layer.load_state_dict(mine.layer.state_dict())
    x = torch.randn(ROWS, FEATURES)
    for pair in pairs:
        pair[1].init_computation()
        forward_backward(pair, x)
        pair[1].update_computation()
    mine, other = pairs[0][1], pairs[1][1]

    def update(module: object, all_statistics: list) -> Callable[[], None]:
        def run() -> None:
            for statistic in all_statistics:
                statistic.updated = False
            module.update_computation()

        return run

    others = [
        other.tensor_s,
        other.tensor_m,
        other.tensor_m_prev,
        other.cross_covariance,
        other.tensor_s_growth,
    ]
    name = f"linear {FEATURES}->{FEATURES}, batch {ROWS}"
    turns = both_seconds(update(mine, mine.gathered.all()), update(other, others), 25)
    report(f"C {name}, statistics", *turns, "with C")
    decreases = (mine.compute_optimal_delta()[2], other.compute_optimal_delta()[2])
    turns = both_seconds(mine.compute_optimal_delta, other.compute_optimal_delta, 25)
    report(f"C {name}, delta", *turns, f"difference of d {relative_difference(*decreases):.1e}")
    thresholds = (1e-10, 1e-5, None)
    ours_time, theirs_time = both_seconds(
        lambda: mine.compute_optimal_added_parameters(*thresholds),
        lambda: other._compute_optimal_added_parameters(*thresholds),
        9,
    )
    difference = relative_difference(mine.eigenvalues_extension, other.eigenvalues_extension)
    report(f"C {name}, neurons", ours_time, theirs_time, f"difference of lambda {difference:.1e}")
    passes = seconds(lambda: forward_backward(pairs[0], x), 9)
    print(f"  forward and backward of the pair: {1e3 * passes:.0f} ms", flush=True)


def report(name: str, ours: float, theirs: float, note: str) -> None:
    print(
        f"{name}: {1e3 * ours:.0f} ms, gromo {1e3 * theirs:.0f} ms, {theirs / ours:.1f}x faster; {note}",
        flush=True,
    )


def main() -> None:
    """Run the rows that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", choices=["restricted", "full", "linear", []])
    rows = parser.parse_args().rows or ["linear", "restricted", "full"]
    torch.set_num_threads(1)
    for row in rows:
        if row == "linear":
            bench_linear()
        else:
            bench_conv(row)


if __name__ == "__main__":
    main()
