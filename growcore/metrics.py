"""Every metric that a report can hold: its key, what it means, which way is better, who shows it. No torch.

A key may be a pattern: `val/accuracy/<class>` stands for one metric of each class, `model/width/<layer>` for
one of each layer. A metric of one's own stands in the mapping `METRICS = {"val/NAME": Metric(...)}` of a
module that the configuration's `imports` names, with a function that measures it; on test images it is
`test/NAME`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from growcore.config import registry

if TYPE_CHECKING:  # tables of metrics are read where torch is not wanted
    from torch import Tensor


class Direction(StrEnum):
    """Whether a larger or a smaller value is better."""

    maximize = "maximize"
    minimize = "minimize"


class Unit(StrEnum):
    """What a metric counts, which also decides how it is written."""

    fraction = "fraction"  # in [0, 1]
    nats = "nats"  # a mean over images
    number = "number"  # a whole number of things
    flops = "FLOPs"
    seconds = "seconds"
    ratio = "ratio"


class Place(StrEnum):
    """Where people see metrics without asking for them."""

    leaderboard = "leaderboard"  # a column of the table that ends a sweep
    live = "live"  # a column of the table of what runs, and in the line that tells of a trial's end
    log = "log"  # in the line of a report in `sweeps logs`
    best = "best"  # recorded in a best file, and compared with what a training of it gives


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric, or one for each class or layer where its key is a pattern."""

    label: str  # the head of a column
    meaning: str  # a line, for people
    better: Direction | None  # None: neither way
    unit: Unit
    places: frozenset[Place] = frozenset()
    in_every_report: bool = True  # else it can be looked at, but nothing can be searched for by it
    # Of one's own: (logits N x classes, labels N) -> the value, once over all images of a part.
    measure: Callable[[Tensor, Tensor], Tensor | float] | None = None

    def written(self, value: float) -> str:
        """The value as a table shows it."""
        if self.unit is Unit.number:
            return f"{value:,.0f}"
        if self.unit is Unit.flops:
            return f"{value / 1e9:.3g}"  # GFLOP, as `head` says
        return f"{value:.1f}" if self.unit is Unit.seconds else f"{value:.4f}"


_EVERYWHERE = frozenset(Place)

METRICS: Mapping[str, Metric] = {
    "val/accuracy": Metric(
        label="val acc",
        meaning="accuracy on validation images",
        better=Direction.maximize,
        unit=Unit.fraction,
        places=frozenset({Place.log, Place.best}),
    ),
    "val/loss": Metric(
        label="val loss",
        meaning="mean cross-entropy on validation images",
        better=Direction.minimize,
        unit=Unit.nats,
        places=frozenset({Place.log, Place.best}),
    ),
    "test/accuracy": Metric(
        label="test acc",
        meaning="accuracy on test images, once at the end; never used to choose",
        better=Direction.maximize,
        unit=Unit.fraction,
        places=frozenset({Place.leaderboard, Place.best}),
        in_every_report=False,
    ),
    "test/loss": Metric(
        label="test loss",
        meaning="mean cross-entropy on test images, once at the end",
        better=Direction.minimize,
        unit=Unit.nats,
        places=frozenset({Place.best}),
        in_every_report=False,
    ),
    "train/loss": Metric(
        label="train loss",
        meaning="mean cross-entropy over the images of the last epoch, as they were trained on",
        better=Direction.minimize,
        unit=Unit.nats,
        places=frozenset({Place.log}),
    ),
    "model/parameters": Metric(
        label="params",
        meaning="parameters of the network",
        better=Direction.minimize,
        unit=Unit.number,
        places=_EVERYWHERE,
    ),
    "model/nonzero_parameters": Metric(
        label="non-zero",
        meaning="parameters that are not 0",
        better=Direction.minimize,
        unit=Unit.number,
        places=_EVERYWHERE,
    ),
    "cost/train_flops": Metric(
        label="train GFLOP",
        meaning="dense FLOPs of training, growth statistics, line search and upkeep included, so far",
        better=Direction.minimize,
        unit=Unit.flops,
        places=frozenset({Place.leaderboard, Place.best}),
    ),
    "cost/sparse_flops": Metric(
        label="sparse GFLOP",
        meaning="FLOPs of training if zeros cost nothing, so far",
        better=Direction.minimize,
        unit=Unit.flops,
    ),
    "cost/wall_seconds": Metric(
        label="seconds",
        meaning="seconds of training, edits and evaluation, so far",
        better=Direction.minimize,
        unit=Unit.seconds,
    ),
    "model/forward_flops": Metric(
        label="forward GFLOP",
        meaning="dense FLOPs of a forward pass of one image",
        better=Direction.minimize,
        unit=Unit.flops,
    ),
    "val/accuracy/<class>": Metric(
        label="val acc",
        meaning="accuracy on the validation images of a class",
        better=Direction.maximize,
        unit=Unit.fraction,
    ),
    "test/accuracy/<class>": Metric(
        label="test acc",
        meaning="accuracy on the test images of a class, once at the end",
        better=Direction.maximize,
        unit=Unit.fraction,
        in_every_report=False,
    ),
    "model/width/<layer>": Metric(
        label="width", meaning="neurons of a layer that can grow", better=None, unit=Unit.number
    ),
    "sparse/density/<layer>": Metric(
        label="density",
        meaning="share of a sparse layer's connections that are not 0",
        better=Direction.minimize,
        unit=Unit.fraction,
    ),
    "sparse/unreached_outputs": Metric(
        label="cut off",
        meaning="outputs to which no path of connections leads from the input (with sparse layers only)",
        better=Direction.minimize,
        unit=Unit.number,
        in_every_report=False,
    ),
    "activity/dead_fraction/<layer>": Metric(
        label="dead",
        meaning="share of a hidden layer's neurons that give 0 on all validation images",
        better=Direction.minimize,
        unit=Unit.fraction,
    ),
    "growth/first_order_improvement/<layer>": Metric(
        label="promised",
        meaning="decrease of the loss that the last growth of a layer promised",
        better=Direction.maximize,
        unit=Unit.nats,
        in_every_report=False,
    ),
    "growth/realised_decrease": Metric(
        label="realised",
        meaning="decrease of the loss that the last growths brought on the line search's batches",
        better=Direction.maximize,
        unit=Unit.nats,
        in_every_report=False,
    ),
    "preflight/warnings": Metric(
        label="warnings",
        meaning="findings of the preflight that training may overcome",
        better=Direction.minimize,
        unit=Unit.number,
        in_every_report=False,
    ),
    "preflight/failures": Metric(
        label="failures",
        meaning="findings of the preflight that make training hopeless",
        better=Direction.minimize,
        unit=Unit.number,
        in_every_report=False,
    ),
    "preflight/output_rms/<layer>": Metric(
        label="forward scale",
        meaning="root mean square of a layer's values before its nonlinearity, untrained",
        better=None,
        unit=Unit.ratio,
        in_every_report=False,
    ),
    "preflight/gradient_rms/<layer>": Metric(
        label="backward scale",
        meaning="root mean square of the gradient at a layer, beside the last layer's, untrained",
        better=None,
        unit=Unit.ratio,
        in_every_report=False,
    ),
    "preflight/blocked_fraction/<layer>": Metric(
        label="blocked",
        meaning="share of a layer's units that no image sends a gradient to, untrained",
        better=Direction.minimize,
        unit=Unit.fraction,
        in_every_report=False,
    ),
    "preflight/effective_rank/<layer>": Metric(
        label="effective rank",
        meaning="how many directions a layer's values fill, untrained",
        better=Direction.maximize,
        unit=Unit.ratio,
        in_every_report=False,
    ),
}


def known(imports: Sequence[str] = ()) -> dict[str, Metric]:
    """All metrics by key or pattern, those of modules in `imports` too.

    Raises:
        ValueError: a module cannot be imported, or its metric has no `val/NAME` or nothing that measures it.
    """
    brought = own(imports)
    # On test images they are measured once, at the end.
    tests = {
        _on_test(key): replace(metric, label=f"test {metric.label}", in_every_report=False)
        for key, metric in brought.items()
    }
    return {**METRICS, **brought, **tests}


def own(imports: Sequence[str]) -> dict[str, Metric]:
    """The metrics that users bring, by their key on validation images; see `known`."""
    found: dict[str, Metric] = {}
    for name in registry.known(registry.METRICS, imports):
        if name in METRICS:
            continue
        metric = registry.find(registry.METRICS, name, imports)
        if not re.fullmatch(r"val/[\w.-]+", name) or metric.measure is None:
            raise ValueError(
                f"A metric of your own is measured on validation images and is called val/NAME; got {name!r} "
                f"{'without' if metric.measure is None else 'with'} a function that measures it. Write "
                'METRICS = {"val/f1": Metric(measure=function, ...)}.'
            )
        found[name] = metric
    return found


def find(key: str, imports: Sequence[str] = ()) -> Metric | None:
    """The metric that a report holds under a key; None where no report can."""
    table = known(imports)
    pattern = _matching(key, table)
    return None if pattern is None else table[pattern]


def check(key: str, imports: Sequence[str] = (), *, to_search: bool) -> None:
    """Refuse a key that no report can hold.

    Args:
        key: as typed.
        imports: modules whose metrics count too.
        to_search: whether trials are to be compared by it, so that every report must hold it.

    Raises:
        ValueError: the rule, the key and what is meant or known.
    """
    metric = find(key, imports)
    if metric is None:
        raise ValueError(f"No report holds a metric {key!r}. {_suggest(key, imports)}")
    if to_search and not metric.in_every_report:
        raise ValueError(
            f"{key} is not in every report, so trials cannot be compared by it. Known: "
            f"{', '.join(k for k, m in known(imports).items() if m.in_every_report)}."
        )


def label(key: str, table: Mapping[str, Metric] = METRICS) -> str:
    """What stands at the head of a column: the metric's label, with its layer or class; else the key.

    Args:
        key: of a report.
        table: of metrics, as `known` gives it.
    """
    if key in table:
        return table[key].label
    pattern = _matching(key, table)
    return key if pattern is None else f"{table[pattern].label} {key.rsplit('/', 1)[-1]}"


def written(key: str, value: float, table: Mapping[str, Metric] = METRICS) -> str:
    """A value as people read it, by the unit of its metric."""
    pattern = _matching(key, table)
    return f"{value:.4f}" if pattern is None else table[pattern].written(value)


def shown(place: Place, table: Mapping[str, Metric] = METRICS) -> dict[str, Metric]:
    """The metrics that people see in a place, in the order of the table."""
    return {key: metric for key, metric in table.items() if place in metric.places}


def plain(table: Mapping[str, Metric]) -> dict[str, dict[str, Any]]:
    """What a table says, without the functions that measure: for records."""
    return {
        key: {
            "label": metric.label,
            "meaning": metric.meaning,
            "better": metric.better and metric.better.value,
            "unit": metric.unit.value,
            "places": sorted(place.value for place in metric.places),
            "in_every_report": metric.in_every_report,
        }
        for key, metric in table.items()
    }


def from_plain(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Metric]:
    """The table that `plain` told; its metrics cannot be measured, only shown."""
    return {
        key: Metric(
            label=told["label"],
            meaning=told["meaning"],
            better=None if told["better"] is None else Direction(told["better"]),
            unit=Unit(told["unit"]),
            places=frozenset(map(Place, told["places"])),
            in_every_report=told["in_every_report"],
        )
        for key, told in values.items()
    }


def _matching(key: str, table: Mapping[str, Metric]) -> str | None:
    """The key or pattern of a table that a report's key stands for."""
    return key if key in table else next((pattern for pattern in table if is_one_of(key, pattern)), None)


def is_one_of(key: str, pattern: str) -> bool:
    """Whether a report's key is one of those that a pattern stands for."""
    return re.fullmatch(_expression(pattern), key) is not None


def _on_test(key: str) -> str:
    return f"test/{key.removeprefix('val/')}"


def _expression(pattern: str) -> str:
    return re.sub("<[a-z]+>", ".+", re.escape(pattern).replace(r"\<", "<").replace(r"\>", ">"))


def _suggest(key: str, imports: Sequence[str]) -> str:
    names = list(known(imports))
    if close := difflib.get_close_matches(key, names, n=1):
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(names)}."
