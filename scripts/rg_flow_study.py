"""Draw variance, kurtosis and pair correlator of random networks against depth, with theory.

Usage: python scripts/rg_flow_study.py [--output runs/rg_flow.png] [--width 256] [--depth 48]

Each activation is shown at its critical weight variance and below and above it, as an ensemble of random
networks of its own. Lines are theory (exact for linear and ReLU, leading order in 1 / width for tanh),
points are measurements with two standard errors. Beyond depth / width = 1 / 8 the tails of scale
invariant networks grow so heavy that a few networks carry the mean; that part is shaded. Kurtosis and
pair correlator of scale invariant networks do not depend on the weight variance, so their three lines
are one. A table is printed beside the figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from growcore.config import Activation
from growcore.diagnostics import Estimate, LayerStatistics, LayerTheory, MLPEnsemble, predict, rg_flow
from growcore.networks.initialization import critical_point

ACTIVATIONS = (Activation.identity, Activation.relu, Activation.tanh)
OFF_CRITICAL = (0.8, 1.0, 1.25)  # factors on the critical C_W
COLORS = ("tab:blue", "black", "tab:red")
HEAVY_TAILS = 1 / 8  # depth / width


@dataclass(frozen=True)
class Row:
    """One quantity of the figure."""

    label: str
    measured: Callable[[LayerStatistics], Estimate]
    theory: Callable[[LayerTheory], float]
    scale: str


ROWS = (
    Row("variance K", lambda s: s.K, lambda t: t.K, "log"),
    Row("excess kurtosis", lambda s: s.excess_kurtosis, lambda t: t.excess_kurtosis, "linear"),
    Row("pair correlator / K²", lambda s: s.pair_correlator, lambda t: t.pair_correlator, "linear"),
)


@dataclass(frozen=True)
class Flow:
    """One ensemble, measured and predicted, layer by layer."""

    ensemble: MLPEnsemble
    factor: float  # C_W over its critical value
    measured: list[LayerStatistics]
    theory: list[LayerTheory]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/rg_flow.png"))
    parser.add_argument("--width", type=int, default=256, help="neurons of every layer")
    parser.add_argument("--depth", type=int, default=48, help="layers")
    parser.add_argument("--num-networks", type=int, default=2_000, help="networks of each ensemble")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seeds = count(arguments.seed)
    flows = {
        activation: [
            measure(activation, factor, arguments.width, arguments.depth, arguments.num_networks, next(seeds))
            for factor in OFF_CRITICAL
        ]
        for activation in ACTIVATIONS
    }
    for of_one_activation in flows.values():
        print_table(of_one_activation)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    draw(flows).savefig(arguments.output, dpi=120)
    print(f"figure: {arguments.output}")


def measure(
    activation: Activation, factor: float, width: int, depth: int, num_networks: int, seed: int
) -> Flow:
    ensemble = MLPEnsemble(
        width=width,
        depth=depth,
        activation=activation,
        weight_variance=factor * critical_point(activation).weight_variance,
    )
    generator = torch.Generator().manual_seed(seed)
    return Flow(ensemble, factor, rg_flow(ensemble, num_networks, generator), predict(ensemble))


def print_table(flows: list[Flow]) -> None:
    for flow in flows:
        name = flow.ensemble.activation
        print(f"{name}, C_W = {flow.ensemble.weight_variance:.3g} ({flow.factor:g} of critical)")
        print(f"  {'layer':>5}" + "".join(f"  {row.label + ': theory, measured':>38}" for row in ROWS))
        last = int(flow.ensemble.width * HEAVY_TAILS)
        for index in sorted({1, 2, last // 4, last // 2, last} & set(range(1, len(flow.measured) + 1))):
            cells = [cell(row, flow, index) for row in ROWS]
            print(f"  {index:>5}" + "".join(f"  {text:>38}" for text in cells))


def cell(row: Row, flow: Flow, layer: int) -> str:
    estimate = row.measured(flow.measured[layer - 1])
    return f"{row.theory(flow.theory[layer - 1]):.4g}, {estimate.value:.4g} ± {estimate.standard_error:.2g}"


def draw(flows: dict[Activation, list[Flow]]) -> Figure:
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    axes = figure.subplots(len(ROWS), len(ACTIVATIONS), sharex=True, squeeze=False)
    for column, (activation, of_one_activation) in enumerate(flows.items()):
        for row_axes, row in zip(axes[:, column], ROWS, strict=True):
            panel(row_axes, row, of_one_activation)
        axes[0, column].set_title(activation.value)
        axes[0, column].legend(fontsize=8)
        axes[-1, column].set_xlabel("layer")
    for row_axes, row in zip(axes[:, 0], ROWS, strict=True):
        row_axes.set_ylabel(row.label)
    first = next(iter(flows.values()))[0]
    figure.suptitle(
        f"Random networks of width {first.ensemble.width}: lines are theory, points measured with two "
        f"standard errors; shaded: depth / width > 1/8"
    )
    return figure


def panel(axes: Axes, row: Row, flows: list[Flow]) -> None:
    layers = range(1, len(flows[0].measured) + 1)
    for start, (flow, color) in enumerate(zip(flows, COLORS, strict=True)):
        shown = slice(start, None, 3)  # points of three ensembles would hide each other
        label = f"$C_W$ = {flow.ensemble.weight_variance:.3g}" + (" (critical)" if flow.factor == 1 else "")
        axes.plot(layers, [row.theory(t) for t in flow.theory], color=color, lw=1, label=label)
        estimates = [row.measured(s) for s in flow.measured][shown]
        axes.errorbar(
            layers[shown],
            [e.value for e in estimates],
            [2 * e.standard_error for e in estimates],
            fmt="o",
            ms=3,
            color=color,
            lw=1,
        )
    axes.set_yscale(row.scale)
    width = flows[0].ensemble.width
    if len(layers) > HEAVY_TAILS * width:
        axes.axvspan(HEAVY_TAILS * width, len(layers), color="0.93", zorder=0)


if __name__ == "__main__":
    main()
