"""What trials reported to earlier drivers, whose schedulers are gone: read from the run folder, as Tune would
bring it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeps.kept import events, replicates
from sweeps.kept.endings import Ending
from sweeps.stopping.fidelity import METRICS

_SCALE = "scale.json"  # in the sweep's folder: what a full trial takes, which only workers can tell


def note_scale(sweep: Path, result: Mapping[str, Any]) -> None:
    """Keep what a full trial takes, for later drivers; a result without it says nothing."""
    if "full_train_flops" in result and not (sweep / _SCALE).exists():
        events.write_json(sweep / _SCALE, {"full_train_flops": result["full_train_flops"]})


def earlier(sweep: Path) -> list[tuple[int, dict[str, Any]]]:
    """Every report of every trial so far, by time: its trial's number and what Tune would bring of it."""
    scale = events.read_json(sweep / _SCALE)
    if scale is None:
        return []
    trials = (folder for folder in sweep.iterdir() if folder.name.isdigit())
    found = [(time, int(t.name), result) for t in trials for time, result in _results(t, scale)]
    return [(number, result) for _, number, result in sorted(found, key=lambda each: each[:2])]


def _results(trial: Path, scale: Mapping[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
    reports = events.reports(trial)
    told = [report for each in replicates.found(trial) for report in events.reports(each)] or reports
    edits = [(report["step"], edit["kind"]) for report in told for edit in report["edits"]]
    for report in reports:
        kinds = Counter(kind for step, kind in edits if step <= report["step"])
        result = {f"{METRICS}/{key}": value for key, value in report["metrics"].items()}
        result |= {"epoch": report["epoch"], "num_grown": kinds["grow"], **scale}
        result |= {"num_pruned": kinds["prune"] + kinds["remove"]}
        yield report["time"], result | {"ending": Ending.finished.value if report["finished"] else None}
