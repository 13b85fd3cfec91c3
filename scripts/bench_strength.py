"""Connection strengths against the forms of the notebook they come from, in one run, on one thread.

    python scripts/bench_strength.py             all tables
    python scripts/bench_strength.py strengths   one of: strengths, memory, layer, activity

The baselines are the notebook's: one zeroed convolution per connection of an output; one grouped
convolution over repeated inputs; and its grouped correlation. They know no padding. Beside the times
stand the figures the notebook published for its own machine (Conv2d(8, 7, 2), batch 2, 5 x 3).
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from growcore.networks.neurons import observe_activity
from growcore.sparse import DSConv2d
from growcore.sparse.geometry import ConvGeometry
from growcore.sparse.strength import coactivation, correlation, pooled_correlation

Form = Callable[[Tensor, Tensor], Tensor]
NUM_PROCESSES = 5  # that measure strengths


def single_form(conv: nn.Conv2d) -> Form:
    """The notebook's first form: for each connection of an output a convolution that is zero elsewhere."""
    indices = list(itertools.product(*[range(size) for size in conv.weight.shape[1:]]))
    weights = torch.zeros(len(indices), *conv.weight.shape)
    for weight, (c, i, j) in zip(weights, indices, strict=True):
        weight[:, c, i, j] = 1

    def form(x: Tensor, y: Tensor) -> Tensor:
        H = torch.zeros_like(conv.weight)
        s1 = torch.sigmoid(y).gt_(0.5)
        for (c, i, j), weight in zip(indices, weights, strict=True):
            s2 = torch.sigmoid(nn.functional.conv2d(x, weight)).gt_(0.5)
            H[:, c, i, j] += torch.sum(s1.mul(s2), (0, 2, 3))
        return H

    return form


def grouped_form(conv: nn.Conv2d) -> Form:
    """Its second form, the one its layer uses: one grouped convolution over the input repeated."""
    indices = list(itertools.product(*[range(size) for size in conv.weight.shape[1:]]))
    groups, num_outputs = len(indices), conv.out_channels
    stacked = torch.zeros(num_outputs * groups, *conv.weight.shape[1:])
    for g, (c, i, j) in enumerate(indices):
        stacked[g * num_outputs : (g + 1) * num_outputs, c, i, j] = 1

    def form(x: Tensor, y: Tensor) -> Tensor:
        out = nn.functional.conv2d(x.repeat(1, groups, 1, 1), stacked, groups=groups)
        s1 = torch.sigmoid(out).gt_(0.5)
        s2 = torch.sigmoid(y).gt_(0.5).repeat(1, groups, 1, 1)
        counts = torch.sum(s2.mul(s1), (0, 2, 3))
        return counts.reshape(groups, num_outputs).T.reshape(conv.weight.shape)

    return form


def grouped_correlation_form(conv: nn.Conv2d) -> Form:
    """Its third form: the correlation over the batch at each position, from a grouped convolution."""
    indices = list(itertools.product(*[range(size) for size in conv.weight.shape[1:]]))
    groups, num_outputs = len(indices), conv.out_channels
    stacked = torch.zeros(groups, *conv.weight.shape[1:])
    for g, (c, i, j) in enumerate(indices):
        stacked[g, c, i, j] = 1
    outputs = [o for o in range(num_outputs) for _ in range(groups)]

    def form(x: Tensor, y: Tensor) -> Tensor:
        s1 = nn.functional.conv2d(x.repeat(1, groups, 1, 1), stacked, groups=groups)
        s1 = s1.repeat(1, num_outputs, 1, 1)
        s2 = y[:, outputs, ...]
        mu_in, mu_out, std_in, std_out = s1.mean(0), s2.mean(0), s1.std(0), s2.std(0)
        corr = ((s1 - mu_in) * (s2 - mu_out)).mean(0) / (std_in * std_out)
        corr[torch.where((std_in == 0) | (std_out == 0))] = 0
        return corr.abs().mean((1, 2)).reshape(conv.weight.shape)

    return form


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Least processor time of a call, after one to warm up: other work on the machine only adds to it."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - start))
    return min(times)


@dataclass(frozen=True)
class Row:
    """One form of a strength at one layer, milliseconds."""

    layer: str
    form: str
    ms: float
    baseline: float | None  # of the notebook's form, where this is ours
    forward: float
    published: str

    @property
    def faster(self) -> float:
        """How many times faster than the notebook's form."""
        return math.nan if self.baseline is None else self.baseline / self.ms


def bench_strengths() -> None:
    print(f"strength of every connection, ms (least of several), the median of {NUM_PROCESSES} processes;")
    print("32 x 32 images, no padding. What memory a process happens to get moves the notebook's forms.\n")
    print(
        f"{'layer':<20}{'form':<44}{'ms':>10}{'x faster':>10}  {'range':<12}{'x forward':>9}{'published':>10}"
    )
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        runs = pool.map(strength_rows, range(NUM_PROCESSES), chunksize=1)
    for rows in zip(*runs, strict=True):
        _line(rows)


@torch.no_grad()
def strength_rows(seed: int) -> list[Row]:
    """Every form at every layer, measured in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return list(_strength_rows())


def _strength_rows() -> Iterator[Row]:
    for channels, kernel, batch, fast in ((3, 5, 4, 300), (64, 3, 2, 100), (64, 3, 4, 20)):
        outputs = 6 if channels == 3 else 64
        conv = nn.Conv2d(channels, outputs, kernel)
        geometry = ConvGeometry.of(conv)
        x = torch.randn(batch, channels, 32, 32)
        y = conv(x)
        name = f"({channels},{outputs},{kernel}) batch {batch}"
        forward = milliseconds(lambda conv=conv, x=x: conv(x), fast)
        yield Row(name, "dense forward", forward, None, forward, "0.215")
        slow = 20 if channels == 3 else 1
        if batch != 4 or channels == 3:
            grouped, direct = grouped_form(conv), coactivation(geometry, x, y)
            _agree(grouped(x, y) / geometry.num_terms(y), direct)
            baseline = milliseconds(lambda f=grouped, x=x, y=y: f(x, y), slow)
            one_by_one = single_form(conv)
            single = milliseconds(lambda f=one_by_one, x=x, y=y: f(x, y), 3)
            ours = milliseconds(lambda g=geometry, x=x, y=y: coactivation(g, x, y), fast)
            yield Row(name, "notebook: one convolution per connection", single, None, forward, "9.64")
            yield Row(name, "notebook: grouped convolution", baseline, None, forward, "0.326")
            yield Row(name, "coactivation", ours, baseline, forward, "")
        if batch >= 3:
            grouped, direct = grouped_correlation_form(conv), correlation(geometry, x, y)
            # The notebook divides a biased covariance by unbiased deviations.
            _agree(grouped(x, y) * batch / (batch - 1), direct)
            baseline = milliseconds(lambda f=grouped, x=x, y=y: f(x, y), slow)
            ours = milliseconds(lambda g=geometry, x=x, y=y: correlation(g, x, y), fast)
            pooled = milliseconds(lambda g=geometry, x=x, y=y: pooled_correlation(g, x, y), fast)
            yield Row(name, "notebook: grouped correlation", baseline, None, forward, "0.348")
            yield Row(name, "correlation", ours, baseline, forward, "")
            yield Row(name, "pooled correlation", pooled, None, forward, "")


def _agree(baseline: Tensor, ours: Tensor) -> None:
    torch.testing.assert_close(ours, baseline, rtol=1e-3, atol=1e-5)


def _line(rows: tuple[Row, ...]) -> None:
    first, faster = rows[0], sorted(row.faster for row in rows)
    ms = statistics.median(row.ms for row in rows)
    forward = statistics.median(row.ms / row.forward for row in rows)
    said, span = "", ""
    if first.baseline is not None:
        said, span = f"{statistics.median(faster):.0f}", f"{faster[0]:.0f} to {faster[-1]:.0f}"
    numbers = f"{ms:>10.3f}{said:>10}  {span:<12}{forward:>9.2f}{first.published:>10}"
    print(f"{first.layer:<20}{first.form:<44}{numbers}")


def _memory_mib(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(field)]
    return float(line.split()[1]) / 1024


@torch.no_grad()
def bench_memory() -> None:
    print("\npeak memory of one measurement beyond its operands, MiB; (64,64,3), 32 x 32, batch 64\n")
    conv = nn.Conv2d(64, 64, 3)
    x = torch.randn(64, 64, 32, 32)
    y = conv(x)
    geometry = ConvGeometry.of(conv)
    for strength in (coactivation, correlation, pooled_correlation):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what earlier work freed, or the peak hides in it
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = _memory_mib("VmRSS")
        strength(geometry, x, y)
        print(f"{strength.__name__:<44}{_memory_mib('VmHWM') - before:>10.0f}")
    groups = conv.weight[0].numel()
    # Input and output repeated once per connection; the sigmoid and both factors would add three more.
    needed = 4 * groups * (x.numel() + y.numel()) / 2**20
    print(f"{'notebook: grouped convolution, at least':<44}{needed:>10.0f}   (computed)")


def _training_step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step


def _interleaved(first: Callable[[], None], second: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Time of a step of each, ms: the least mean over 20 steps, measured in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    first(), second()
    for _ in range(rounds):
        for step, kept in zip((first, second), times, strict=True):
            start = time.process_time()
            for _ in range(20):
                step()
            kept.append(50 * (time.process_time() - start))
    return min(times[0]), min(times[1])


def bench_layer() -> None:
    print("\ntraining step of one layer, ms; 32 x 32, update every 20 steps, masks included\n")
    for batch in (4, 64):
        x = torch.randn(batch, 64, 32, 32, requires_grad=True)
        plain = nn.Conv2d(64, 64, 3, padding=1)
        sparse = DSConv2d.from_conv(plain, prune_dims=())
        sparse.prune_randomly()
        dense, ours = _interleaved(_training_step(plain, x), _training_step(sparse, x), 3)
        print(
            f"(64,64,3) batch {batch:<6}Conv2d {dense:8.2f}   DSConv2d {ours:8.2f}   {ours / dense - 1:+.1%}"
        )


def bench_activity() -> None:
    print("\ntraining step of a ConvNet, ms; alive statistics of every layer every 20 steps\n")

    def net() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 16 * 16, 10),
        )

    x = torch.randn(64, 3, 32, 32)
    plain, observed = net(), net()
    layers = {str(i): layer for i, layer in enumerate(observed) if isinstance(layer, nn.ReLU | nn.Linear)}
    with observe_activity(layers, interval=20) as activities:
        without, with_ = _interleaved(_training_step(plain, x), _training_step(observed, x), 3)
        outputs = {name: _output(observed, x, int(name)) for name in layers}
        counting = milliseconds(lambda: [activities[name].update(outputs[name]) for name in layers], 20) / 20
    print(f"without {without:8.2f}   with {with_:8.2f}   {with_ / without - 1:+.1%}")
    print(f"counting alone {counting:.3f} ms a step, {counting / without:.2%} of it")


@torch.no_grad()
def _output(model: nn.Sequential, x: Tensor, index: int) -> Tensor:
    return model[: index + 1](x)


TABLES = {
    "strengths": bench_strengths,
    "memory": bench_memory,
    "layer": bench_layer,
    "activity": bench_activity,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Benchmark connection strengths.")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; default: all")
    chosen = parser.parse_args().tables or list(TABLES)
    if unknown := set(chosen) - set(TABLES):
        parser.error(f"unknown table {sorted(unknown)}; choose from {', '.join(TABLES)}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for table in chosen:
        TABLES[table]()
