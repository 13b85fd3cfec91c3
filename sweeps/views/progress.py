"""What a running sweep shows: a table that moves on a terminal, a line per event on a pipe or in CI."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from growcore.metrics import METRICS, Metric, Place, label, shown
from sweeps.kept.budget import Budget, Spent, described
from sweeps.kept.replicates import standard_errors
from sweeps.kept.trials import TrialRow, TrialState
from sweeps.views.leaderboard import entry
from sweeps.views.tables import columns
from sweeps.views.words import chosen, duration, edits_each, measured

_SECONDS = "cost/wall_seconds"


class Display(Protocol):
    """Hears of everything a person may want to see."""

    def started(self, number: int, params: Mapping[str, Any], continues: bool) -> None:
        """A trial was handed out."""

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """A trial reported."""

    def ended(self, row: TrialRow) -> None:
        """A trial ended."""

    def accounted(self, budget: Budget, spent: Spent) -> None:
        """What the sweep may spend and has spent by now."""

    def say(self, text: str) -> None:
        """Something else happened."""

    def close(self) -> None:
        """The sweep is over."""


def display(
    budget: Budget,
    done: int,
    metric: str,
    maximize: bool,
    stream: TextIO | None = None,
    known: Mapping[str, Metric] = METRICS,
) -> Display:
    """A Table where `stream` (stdout) is a terminal, else Lines.

    Args:
        budget: what the sweep may spend.
        done: trials that ended in earlier runs of it.
        metric: what ranks trials.
        maximize: whether a larger metric is better.
        stream: where to write.
        known: the metrics of the sweep, those of its user too.
    """
    stream = stream or sys.stdout
    tally = Tally(budget, done, metric, maximize, known)
    if stream.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb":
        return LiveTable(tally, stream)
    return Lines(tally, stream)


class Tally:
    """Counts of a running sweep and its best trial so far."""

    def __init__(
        self,
        budget: Budget,
        done: int,
        metric: str,
        maximize: bool,
        known: Mapping[str, Metric] = METRICS,
    ) -> None:
        self.budget = budget
        self.spent = Spent()
        self.done = done
        self.metric = metric
        self.known = known
        self._maximize = maximize
        self._best: tuple[float, int] | None = None
        self._began = time.monotonic()

    def add(self, row: TrialRow) -> None:
        """Count a trial that ended."""
        self.done += 1
        if row.state is not TrialState.complete or row.value is None or row.violations:
            return
        if self._best is None or (row.value > self._best[0]) == self._maximize:
            self._best = (row.value, row.number)

    def describe(self, row: TrialRow) -> str:
        """How a trial ended, in one line."""
        return describe(row, self.metric, self.known)

    @property
    def seconds(self) -> float:
        """Since the sweep started or was resumed."""
        return time.monotonic() - self._began

    def __str__(self) -> str:
        best = "" if self._best is None else f", best {self._best[0]:.4f} (#{self._best[1]})"
        num = self.budget.num_trials
        others = described(replace(self.budget, num_trials=None), self.spent)
        return f"{self.done}{'' if num is None else f'/{num}'} trials{others and f', {others}'}{best}"


class Lines:
    """One line per trial that starts or ends."""

    def __init__(self, tally: Tally, stream: TextIO) -> None:
        self._tally = tally
        self._stream = stream

    def started(self, number: int, params: Mapping[str, Any], continues: bool) -> None:
        """A trial was handed out."""
        self.say(f"#{number:<3d} {'continues' if continues else 'starts'}: {chosen(params)}")

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """Nothing: a line per report would bury the rest."""

    def ended(self, row: TrialRow) -> None:
        """How a trial ended."""
        self._tally.add(row)
        self.say(
            f"#{row.number:<3d} {describe(row, self._tally.metric, self._tally.known)}   [{self._tally}]"
        )

    def accounted(self, budget: Budget, spent: Spent) -> None:
        """What the sweep may spend and has spent by now."""
        self._tally.budget, self._tally.spent = budget, spent

    def say(self, text: str) -> None:
        """A line with the seconds since the start."""
        print(f"{self._tally.seconds:6.1f} s  {text}", file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to put back."""


class LiveTable:
    """The running trials in a table at the bottom, ended ones as lines above it."""

    def __init__(self, tally: Tally, stream: TextIO) -> None:
        self._tally = tally
        self._running: dict[int, dict[str, Any]] = {}
        self._console = Console(file=stream, highlight=False)
        self._live = Live(
            console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True
        )
        self._live.start()

    def started(self, number: int, params: Mapping[str, Any], continues: bool) -> None:
        """A trial was handed out."""
        self._running[number] = {"chosen": chosen(params), "began": time.monotonic()}

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """A trial reported."""
        self._running.setdefault(number, {"chosen": "", "began": time.monotonic()})["result"] = result

    def ended(self, row: TrialRow) -> None:
        """How a trial ended, above the table."""
        self._tally.add(row)
        self._running.pop(row.number, None)
        style = {"failed": "red", "stopped": "dim", "infeasible": "dim"}.get(row.state.value, "")
        self._console.print(Text(f"#{row.number:<3d} {self._tally.describe(row)}", style=style))

    def accounted(self, budget: Budget, spent: Spent) -> None:
        """What the sweep may spend and has spent by now."""
        self._tally.budget, self._tally.spent = budget, spent

    def say(self, text: str) -> None:
        """A line above the table."""
        self._console.print(Text(text))

    def close(self) -> None:
        """Take the table away; the lines stay."""
        self._live.stop()

    def _render(self) -> Group:
        head = Text(f"{duration(self._tally.seconds)}  {self._tally}", style="bold")
        if not self._running:
            return Group(head)
        always = [metric.label for metric in shown(Place.live, self._tally.known).values()]
        heads = ["#", "seconds", "epoch", label(self._tally.metric, self._tally.known), *always, "edits"]
        rows = [_live_cells(n, trial, self._tally) for n, trial in sorted(self._running.items())]
        lines = columns([[*heads, "what was chosen"], *rows], left={len(heads)})
        return Group(head, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))


class Logged:
    """Shows as another does, and keeps what it says in a file: what `sweeps logs SWEEP` prints.

    Lines from before the file's folder exists are written when it does.
    """

    def __init__(
        self, shown: Display, path: Path, metric: str, known: Mapping[str, Metric] = METRICS
    ) -> None:
        self._shown = shown
        self._path = path
        self._metric = metric
        self._known = known
        self._waiting: list[str] = []

    def started(self, number: int, params: Mapping[str, Any], continues: bool) -> None:
        """A trial was handed out."""
        self._shown.started(number, params, continues)
        self._write(f"#{number:<3d} {'continues' if continues else 'starts'}: {chosen(params)}")

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """A trial reported; `sweeps logs SWEEP/NUMBER` has it."""
        self._shown.reported(number, result)

    def ended(self, row: TrialRow) -> None:
        """A trial ended."""
        self._shown.ended(row)
        self._write(f"#{row.number:<3d} {describe(row, self._metric, self._known)}")

    def accounted(self, budget: Budget, spent: Spent) -> None:
        """What the sweep may spend and has spent by now."""
        self._shown.accounted(budget, spent)

    def say(self, text: str) -> None:
        """Something else happened."""
        self._shown.say(text)
        self._write(text)

    def close(self) -> None:
        """The sweep is over."""
        self._shown.close()

    def _write(self, text: str) -> None:
        self._waiting.append(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")
        if self._path.parent.is_dir():
            lines, self._waiting = self._waiting, []
            with self._path.open("a") as file:
                file.writelines(lines)


def _live_cells(number: int, trial: Mapping[str, Any], tally: Tally) -> list[str]:
    result, metric, always = trial.get("result"), tally.metric, shown(Place.live, tally.known)
    seconds = f"{time.monotonic() - trial['began']:.0f}"
    if result is None or "metrics" not in result:
        return [str(number), seconds, "-", "-", *("-" for _ in always), "-", trial["chosen"]]
    metrics = result["metrics"]
    counts = [one.written(metrics[key]) if key in metrics else "-" for key, one in always.items()]
    trainings = result.get("replicates", [])
    value = measured(metrics.get(metric), standard_errors(trainings).get(metric))
    edits = edits_each(result["num_grown"], result["num_pruned"], len(trainings))
    return [str(number), seconds, f"{result['epoch']:g}", value, *counts, edits, trial["chosen"]]


def describe(row: TrialRow, metric: str, known: Mapping[str, Metric] = METRICS) -> str:
    """How a trial ended, in one line."""
    e = entry(row, [metric])
    if row.state is TrialState.failed:
        return f"failed: {row.reason}"
    if row.state is TrialState.infeasible:
        return str(row.reason)  # says so itself
    what = "complete" if row.state is TrialState.complete else f"stopped early at epoch {row.outcome.epoch:g}"
    always = {key: one for key, one in shown(Place.live, known).items() if key in e.metrics}
    sizes = [f"{one.written(e.metrics[key])} {one.label}" for key, one in always.items()]
    # A resumed trial counts what it trained, not the time in between.
    trained = row.executed(_SECONDS) if _SECONDS in row.outcome.metrics else None
    seconds = row.seconds if trained is None else trained * max(1, len(e.replicates))
    value = measured(e.value, e.error)
    return f"{what}: {', '.join([f'{label(metric, known)} {value}', *sizes, e.edits])}, {seconds:.1f} s"
