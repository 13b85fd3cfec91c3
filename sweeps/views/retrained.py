"""A configuration that was trained again, beside what its best file recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from growcore.metrics import Place, label, shown
from sweeps.records.best import Compared
from sweeps.views.tables import columns
from sweeps.views.words import measured


def table(compared: Sequence[Compared]) -> list[str]:
    """`compare` as a table for people."""
    rows = [["", "now", "recorded", "difference"]]
    for c in compared:
        difference = "-" if c.recorded is None else f"{c.now - c.recorded:+.6g}"
        rows.append(
            [c.metric, f"{c.now:.6g}", "-" if c.recorded is None else f"{c.recorded:.6g}", difference]
        )
    return columns(rows, left={0})


def means_line(recorded: Mapping[str, Any] | None) -> str | None:
    """What the mean over its seeds was, where the file of a trial with several recorded one."""
    if recorded is None or "means" not in recorded:
        return None
    means, errors = recorded["means"], recorded["standard_errors"]
    keys = [key for key in dict.fromkeys((recorded["metric"], "test/accuracy")) if key in means]
    told = ", ".join(f"{key} {measured(means[key], errors[key])}" for key in keys)
    return (
        f"the recorded values are those of the first of {recorded['replicates']} seeds; "
        f"their means ± standard errors: {told}"
    )


def line(epoch: float, metrics: Mapping[str, float]) -> str:
    """A report of the training."""
    sizes = [f"{one.written(metrics[key])} {one.label}" for key, one in shown(Place.live).items()]
    return f"  epoch {epoch}: {label('val/accuracy')} {metrics['val/accuracy']:.4f}, {', '.join(sizes)}"


def lines(compared: Sequence[Compared], recorded: Mapping[str, Any] | None) -> list[str]:
    """What came out, beside what was recorded."""
    found = table(compared)
    if recorded is not None:
        found.insert(0, f"beside trial {recorded.get('trial')} of {recorded.get('sweep')}:")
    means = means_line(recorded)
    return found if means is None else [*found, means]
