"""Will a network carry a signal before it trains, and what did an edit do to it? One batch answers both.

The batch is always the same: the first training images, as they are. Nothing random is drawn, the network
stays as it is, and findings of different trials and moments can be compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from growcore.data import DataSet
from growcore.diagnostics import (
    Finding,
    FindingKind,
    LayerSignal,
    Limits,
    Severity,
    judge,
    measure_signal,
    signal_changes,
    signal_metrics,
)
from growcore.networks.models import layer_name, sparse_layers
from growcore.networks.paths import Paths, every_unit_reads, find_paths

NUM_IMAGES = 64  # whatever training.batch_size is
COUNTS = ("preflight/warnings", "preflight/failures")  # metrics of every report


@dataclass(frozen=True, slots=True)
class Check:
    """One batch through a network and its gradient back, and what is wrong with them."""

    signals: list[LayerSignal]  # layers named as people see them, in order of the forward pass
    findings: list[Finding]

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers of findings, and scale, blocked units and effective rank of each layer."""
        num_failures = len(self.failures)
        counts = dict(
            zip(COUNTS, (float(len(self.findings) - num_failures), float(num_failures)), strict=True)
        )
        return counts | signal_metrics(self.signals)

    @property
    def failures(self) -> list[Finding]:
        """Findings that make training hopeless."""
        return [finding for finding in self.findings if finding.severity == Severity.fail]


def inspect(model: nn.Module, data: DataSet) -> Check:
    """Measure and judge a network, in the mode that it is in; of one without a path only that is said.

    Raises:
        ValueError: there are fewer than 2 training images, or the network has no linear or convolution
            layer.
    """
    signals = measure(model, data)
    cut = path_finding(model, data)
    if cut is not None and cut.severity == Severity.fail:
        return Check(signals, [cut])
    return Check(signals, [*([] if cut is None else [cut]), *judge(signals, Limits())])


def path_finding(model: nn.Module, data: DataSet) -> Finding | None:
    """What pruning has cut: outputs to which no path of connections leads; None where there are none."""
    paths = _cut_paths(model, data)
    if paths is None:
        return None
    return Finding(
        Severity.warn if paths.cut_at is None else Severity.fail,
        FindingKind.no_path,
        paths.cut_at or "outputs",
        f"{paths}.",
        "Raise pruning.density or pruning.k2, so that every unit has a connection in and out.",
    )


def path_metrics(model: nn.Module, data: DataSet) -> dict[str, float]:
    """How many outputs pruning has cut from the input; nothing for a network without sparse layers."""
    if not sparse_layers(model):
        return {}
    paths = _cut_paths(model, data)
    return {"sparse/unreached_outputs": 0.0 if paths is None else float(paths.num_unreached)}


def _cut_paths(model: nn.Module, data: DataSet) -> Paths | None:
    """The paths through a network with sparse layers where some are missing, else None."""
    if not sparse_layers(model) or every_unit_reads(model):
        return None
    paths = find_paths(model, data.image_shape)
    return paths if paths.num_unreached else None


def measure(model: nn.Module, data: DataSet) -> list[LayerSignal]:
    """Signal and gradient of every linear and convolution layer on the batch.

    Raises:
        ValueError: as `inspect`.
    """
    if len(data.train) < 2:
        raise ValueError(
            f"preflight compares training images and needs at least 2; got {len(data.train)}. "
            "Raise data.num_train, or set preflight=off."
        )
    x_NCHW = data.normalise(data.train.x_NCHW[:NUM_IMAGES])
    signals = measure_signal(model, x_NCHW, data.train.y_N[:NUM_IMAGES])
    return [dataclasses.replace(s, layer=layer_name(s.layer.removesuffix(".layer"))) for s in signals]


def edit_signal(layer: str, before: Sequence[LayerSignal], after: Sequence[LayerSignal]) -> dict[str, float]:
    """What an edit event did to the signal at an edited layer and at the network's last one.

    Args:
        layer: the edited one, as people see it.
        before: of `measure`, before all edits of the event.
        after: the same after them.

    Returns:
        By `<what>/<layer>`: `output_factor` and `gradient_factor`, the second moments after over before,
        `blocked_change` and `rank_change`, the differences of the blocked fraction and the effective rank.
    """
    values: dict[str, float] = {}
    # A layer that had no neurons yet had no signal either.
    common = {s.layer for s in before} & {s.layer for s in after}
    before, after = ([s for s in signals if s.layer in common] for signals in (before, after))
    for change in signal_changes(before, after):
        if change.layer in (layer, before[-1].layer):
            values[f"output_factor/{change.layer}"] = change.output_factor
            values[f"gradient_factor/{change.layer}"] = change.gradient_factor
            values[f"blocked_change/{change.layer}"] = change.blocked_change
            values[f"rank_change/{change.layer}"] = change.rank_change
    return values
