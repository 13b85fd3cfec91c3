"""What happened in a sweep or in a trial, line by line: from the run folder, so also while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sweeps.kept import events
from sweeps.records import disk
from sweeps.views.leaderboard import label, measured

UNDATED = " " * 21  # in place of a line's date and time
_POLL_SECONDS = 0.5
_SHOWN = ("val/accuracy", "val/loss", "train/loss", "model/parameters", "model/nonzero_parameters")


def of_sweep(root: Path, name: str) -> Iterator[str]:
    """What the drivers of a sweep said so far."""
    path = root / name / disk.LOG
    if path.exists():
        yield from path.read_text().splitlines()


def of_trial(folder: Path, trial: Path, metric: str) -> Iterator[str]:
    """What happened in a trial so far: a line per start, report, edit, warning and failure, and its end.

    Args:
        folder: of the trial, or of one of its replicates.
        trial: folder of the trial, which ends for its replicates too.
        metric: what ranks trials; its means are shown with their standard errors.
    """
    for event in events.read_events(folder):
        yield from readable(event, metric)
    outcome = events.read_json(trial / events.OUTCOME)
    if outcome is not None:
        why = f": {outcome['reason']}" if outcome["reason"] else ""
        yield f"{UNDATED}{outcome['state']}{why}"


def raw(sweep: Path, trial: Path | None) -> Iterator[str]:
    """Events as they were written, one JSON object a line: of a trial, or of all trials by time."""
    if trial is not None:
        yield from (json.dumps(event) for event in events.read_events(trial))
        return
    trials = (folder for folder in sweep.iterdir() if folder.name.isdigit())
    found = [{"trial": int(t.name), **event} for t in trials for event in events.read_events(t)]
    yield from (json.dumps(event) for event in sorted(found, key=lambda event: event["time"]))


def follow(read: Callable[[], Iterator[str]], is_over: Callable[[], bool]) -> Iterator[str]:
    """Lines as they come, until there will be no more.

    Args:
        read: every line so far; those that were there stay as they were.
        is_over: whether no more lines come.
    """
    num_shown = 0
    while True:
        over = is_over()  # asked first: what is written until then is read below
        lines = list(read())
        yield from lines[num_shown:]
        num_shown = len(lines)
        if over:
            return
        time.sleep(_POLL_SECONDS)


def readable(event: Mapping[str, Any], metric: str) -> list[str]:
    """One event for people; a mean of `metric` has its standard error."""
    when = f"{datetime.fromtimestamp(event['time']):%Y-%m-%d %H:%M:%S}  "
    told = _report(event, metric) if event["kind"] == "report" else _TOLD.get(event["kind"], _other)(event)
    return [(when if n == 0 else UNDATED) + line for n, line in enumerate(told)]


def _started(event: Mapping[str, Any]) -> list[str]:
    where = f"process {event['pid']} on {event['host']}"
    begun = f"continues from {event['continues']}" if event["continues"] else "starts"
    return [f"attempt {event['attempt']} {begun}, {where}"]


def _report(event: Mapping[str, Any], metric: str) -> list[str]:
    metrics, errors = event["metrics"], event.get("errors", {})
    told = {key: _number(metrics[key]) for key in _SHOWN if key in metrics}
    if metric in errors:
        # First, as it ranks, also where it is none of those always shown.
        told = {metric: ""} | told | {metric: measured(metrics[metric], errors[metric])}
    shown = [f"{label(key)} {value}" for key, value in told.items()]
    lines = [f"epoch {event['epoch']:g}, step {event['step']}: {', '.join(shown)}"]
    lines += [f"  {e['kind']} {e['layer']} by {e['number']}: {e['reason']}" for e in event["edits"]]
    findings = event.get("findings", [])
    return lines + [f"  {f['severity']}: {f['layer']}: {f['reason']} {f['fix']}" for f in findings]


def _failed(event: Mapping[str, Any]) -> list[str]:
    return [f"{event['kind']}: {event['reason']}", *f"{event['traceback']}".rstrip().splitlines()]


def _other(event: Mapping[str, Any]) -> list[str]:
    known = ("kind", "time", "attempt", "reason")
    reason = [str(event["reason"])] if "reason" in event else []
    values = [*reason, *(f"{key} {value}" for key, value in event.items() if key not in known)]
    return [f"{event['kind'].replace('_', ' ')}{': ' if values else ''}{', '.join(values)}"]


_TOLD: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "started": _started,
    "failed": _failed,
    "lost": _failed,
}


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 10 else f"{value:.4f}"
