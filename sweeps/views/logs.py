"""What happened in a sweep or in a trial, line by line: from the run folder, so also while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, Self

from growcore.metrics import Place, label, shown
from sweeps.config.errors import ConfigError
from sweeps.kept import events, replicates
from sweeps.records import disk
from sweeps.views.command_line import root_option
from sweeps.views.words import measured

UNDATED = " " * 21  # in place of a line's date and time
_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """Of a sweep, of one of its trials, or of one replicate of a trial."""

    root: Path  # storage root
    sweep: str  # its name
    metric: str  # what ranks its trials
    trial: Path | None  # folder of the trial
    folder: Path | None  # of the trial, or of the replicate

    @classmethod
    def of(cls, root: Path, identity: str) -> Self:
        """The log of SWEEP, SWEEP/NUMBER or SWEEP/NUMBER/REPLICATE; ConfigError where there is none."""
        name, _, number = identity.partition("/")
        metric = disk.read_config(root, name).search.metric
        folder = _trial_folder(root / name, number) if number else None
        trial = root / name / number.split("/")[0] if number else None
        return cls(root=root, sweep=name, metric=metric, trial=trial, folder=folder)

    @property
    def has_ended(self) -> bool:
        """Whether it is a trial's that is over; of a sweep only its driver can tell."""
        return self.trial is not None and (self.trial / events.OUTCOME).exists()

    def lines(self, as_json: bool) -> Iterator[str]:
        """Every line so far; as JSON: every event as it was written."""
        if as_json:
            return raw(self.root / self.sweep, self.folder)
        if self.folder is None or self.trial is None:
            return of_sweep(self.root, self.sweep)
        means = _where_replicates_log(self.root, self.folder)
        return chain(means, of_trial(self.folder, self.trial, self.metric))


def _trial_folder(sweep: Path, number: str) -> Path:
    folder = sweep / number
    words = number.split("/")
    if len(words) > 2 or not all(word.isdigit() for word in words) or not (sweep / words[0]).is_dir():
        numbers = sorted(int(path.name) for path in sweep.iterdir() if path.name.isdigit())
        raise ConfigError(f"{sweep.name} has no trial {number}. Its trials: {_span(numbers) or 'none yet'}.")
    if not folder.is_dir():
        indices = [int(path.name) for path in replicates.found(folder.parent)]
        known = _span(indices) or "none, as it is trained once"
        raise ConfigError(f"{sweep.name}/{words[0]} has no replicate {words[1]}. Its replicates: {known}.")
    return folder


def _span(numbers: Sequence[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if numbers else ""


def _where_replicates_log(root: Path, folder: Path) -> list[str]:
    """What stands above the log of a trial whose events are means."""
    found = [path.relative_to(root).as_posix() for path in replicates.found(folder)]
    if not found:
        return []
    command = f"sweeps logs {found[0]}{root_option(root.absolute())}"
    return [
        f"{UNDATED}means over {len(found)} seeds, ± standard error; each has a log of its own, "
        f"{found[0]} to {found[-1]}: {command}"
    ]


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
    always = shown(Place.log).items()
    told = {key: one.written(metrics[key]) for key, one in always if key in metrics}
    if metric in errors:
        # First, as it ranks, also where it is none of those always shown.
        told = {metric: ""} | told | {metric: measured(metrics[metric], errors[metric])}
    values = [f"{label(key)} {value}" for key, value in told.items()]
    lines = [f"epoch {event['epoch']:g}, step {event['step']}: {', '.join(values)}"]
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
