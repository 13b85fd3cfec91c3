"""Population-based training in action: members take turns on the slots, and go on from each other.

A trial of Ray's is one turn of a member: it trains one interval of a full trial, writes a checkpoint and
ends. The member that has come least far has the next turn, and before it the population is looked at
(`sweeps.stopping.exploitation`), so that members are compared at about the same fraction though slots are
fewer.

Taking over is done here and in this order, so that it can be repeated after a crash at any moment: the
donor's checkpoints are linked into `NUMBER/taken-COUNT`, the study is told, the event is written, and the
folder becomes `NUMBER/checkpoints`.
"""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sweeps.config.errors import ConfigError
from sweeps.config.settings import SweepConfig
from sweeps.kept import events
from sweeps.kept.trials import Assignment, Change
from sweeps.search import Study
from sweeps.space.search_space import SearchSpace
from sweeps.stopping import exploitation
from sweeps.stopping.fidelity import METRICS, EditGrace, Scale, num_edits
from sweeps.trial.job import ROUNDING, Turn

_SCALE = "population.json"  # in the sweep's folder: what a full trial takes
_MAX_DRAWS = 8  # of changed values, until they make a valid trial


@dataclass(slots=True)
class _Member:
    curve: list[tuple[float, float]] = field(default_factory=list)  # (fraction, value)
    has_ended: bool = False
    in_window: bool = False  # after an edit: it is not judged
    is_due: bool = False  # its turn is over: it is looked at before the next

    @property
    def reached(self) -> float:
        return self.curve[-1][0] if self.curve else 0.0


class Population:
    """Who trains next, and from where.

    Args:
        config: of the sweep; checked by `exploitation.check`.
        folder: of the sweep.
        space: of the sweep.
        study: is told of every change.
        say: told what people should know.
    """

    def __init__(
        self, config: SweepConfig, folder: Path, space: SearchSpace, study: Study, say: Callable[[str], None]
    ) -> None:
        self._config = config
        self._folder = folder
        self._space = space
        self._study = study
        self._say = say
        self._scale = Scale(config, config.scheduler.interval)
        self._grace = EditGrace(config.scheduler.edit_grace)
        self._members: dict[int, _Member] = {}
        self._waiting: dict[int, Assignment] = {}
        known = events.read_json(folder / _SCALE) or {}
        self._full_train_flops: float | None = known.get("full_train_flops")
        self._scale.full_seconds = known.get("full_seconds")

    def adopt(self, orphans: Sequence[Assignment]) -> None:
        """Take over from an earlier driver: what members reported, and those whose training is not over."""
        live = {orphan.number for orphan in orphans}
        for row in self._study.rows():
            if row.number in live:
                self._finish_taking(row.number, row.changes)
            member = _Member(has_ended=row.state.has_ended)
            self._members[row.number] = member
            self._read_curve(row.number, member)
        self._waiting = {orphan.number: orphan for orphan in orphans}

    def next(self, ask: Callable[[], Assignment | None]) -> Assignment | None:
        """Who has the next turn: one that has not begun, else the one that has come least far.

        Args:
            ask: gives a new trial; None where the budget is handed out.
        """
        if (new := ask()) is not None:
            self._members[new.number] = _Member()
            return new
        if not self._waiting:
            return None
        number = min(self._waiting, key=lambda n: (self._members[n].reached, n))
        assignment = self._waiting.pop(number)
        donor = self._donor(number)
        return assignment if donor is None else self._taken_over(assignment, donor)

    def has_begun(self, number: int) -> bool:
        """Whether a member had a turn before."""
        return bool(self._members[number].curve)

    def turn(self, number: int) -> Turn:
        """The turn a member has now: up to the next multiple of the interval."""
        interval = self._config.scheduler.interval
        num = math.floor(self._members[number].reached / interval * ROUNDING) + 1
        return self._scale.turn(num * interval)

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """A member reported (a flat Tune result); failures bring no metrics and say nothing here."""
        metric = f"{METRICS}/{self._config.search.metric}"
        if metric not in result:
            return
        member = self._members[number]
        fraction = self._scale.fraction(str(number), result)
        member.curve.append((fraction, float(result[metric])))
        member.in_window = self._grace.holds(str(number), fraction, num_edits(result))
        known = {"full_train_flops": result["full_train_flops"], "full_seconds": self._scale.full_seconds}
        if known != events.read_json(self._folder / _SCALE):
            self._full_train_flops = result["full_train_flops"]
            events.write_json(self._folder / _SCALE, known)

    def turn_ended(self, assignment: Assignment) -> None:
        """A member waits for its next turn; its checkpoint is written."""
        self._members[assignment.number].is_due = True
        self._waiting[assignment.number] = assignment

    def returned(self, assignment: Assignment) -> None:
        """A member's attempt was lost in the middle of its turn; it has another one."""
        self._waiting[assignment.number] = assignment

    def ended(self, number: int) -> None:
        """A member's training is over."""
        self._members[number].has_ended = True

    # Taking over

    def _donor(self, number: int) -> int | None:
        asker = self._members[number]
        if not asker.is_due or asker.in_window:
            return None
        asker.is_due = False
        members = [
            exploitation.Member(
                number=n,
                curve=tuple(member.curve),
                can_give=not member.has_ended and bool(_checkpoints(self._folder / str(n))),
            )
            for n, member in sorted(self._members.items())
        ]
        me = next(member for member in members if member.number == number)
        settings, direction = self._config.scheduler, self._config.search.direction
        return exploitation.choose_donor(me, members, settings, direction, self._draw(number, "donor"))

    def _draw(self, number: int, what: str) -> random.Random:
        """The same at the same moment of the same sweep, so that a crash changes no decision."""
        reached = self._members[number].reached
        return random.Random(f"{self._config.search.seed}/{number}/{reached!r}/{what}")  # noqa: S311

    def _taken_over(self, assignment: Assignment, donor: int) -> Assignment:
        number = assignment.number
        given = self._study.row(donor)
        values = self._varied(given.params, self._draw(number, "values"))
        taken = self._folder / str(number) / f"taken-{1 + len(self._study.row(number).changes)}"
        report = self._link(donor, taken)
        if report is None:  # its checkpoints went while they were linked: it has come further
            return assignment
        change = Change(
            fraction=self._members[number].reached,
            donor=donor,
            donor_fraction=self._fraction(donor, report),
            step=report["step"],
            own=_costs(events.reports(self._folder / str(number))[-1]),
            taken=_costs(report),
            params=values,
            overrides=self._space.overrides(values),
            config=self._space.apply(values).to_dict(),
        )
        self._study.change(number, change)
        self._take(number, taken, change)
        self._members[number].curve = [(change.donor_fraction, self._value(report))]
        self._say(f"#{number:<3d} {change.told}: {_difference(given.params, values)}")
        return replace(assignment, params=values, overrides=change.overrides, config=change.config)

    def _varied(self, values: dict[str, Any], draw: random.Random) -> dict[str, Any]:
        for _ in range(_MAX_DRAWS):
            found = exploitation.vary(self._space, values, self._config.scheduler, draw)
            with suppress(ConfigError):
                self._space.apply(found)
                return found
        return values

    def _link(self, donor: int, taken: Path) -> dict[str, Any] | None:
        """Link a member's checkpoints into a folder; returns the report of the newest, None where none is."""
        shutil.rmtree(taken, ignore_errors=True)
        taken.mkdir()
        for source in _checkpoints(self._folder / str(donor)):
            try:
                shutil.copytree(source, taken / source.name, copy_function=_link)
            except (OSError, shutil.Error):  # the donor trains on, and may have removed it
                shutil.rmtree(taken / source.name, ignore_errors=True)
        linked = [_step(path) for path in sorted(taken.glob("step-*"))]
        told = events.reports(self._folder / str(donor))
        return next((report for report in told if linked and report["step"] == linked[-1]), None)

    def _take(self, number: int, taken: Path, change: Change) -> None:
        folder = self._folder / str(number)
        told = events.reports(self._folder / str(change.donor))
        report = next((r for r in told if r["step"] == change.step), None)
        said = {"told": change.told, "donor": change.donor, "step": change.step}
        where = {"donor_fraction": change.donor_fraction, "params": change.params}
        reached = {} if report is None else {"epoch": report["epoch"], "metrics": report["metrics"]}
        events.EventWriter(folder).write("exploit", {**said, **where, **reached})
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        taken.rename(folder / "checkpoints")

    def _finish_taking(self, number: int, changes: Sequence[Change]) -> None:
        """What an earlier driver began: it counts where the study knows of it."""
        for count, taken in (
            (int(p.name.split("-")[1]), p) for p in (self._folder / str(number)).glob("taken-*")
        ):
            if count == len(changes):
                self._take(number, taken, changes[-1])
            else:
                shutil.rmtree(taken, ignore_errors=True)

    # Reading back

    def _read_curve(self, number: int, member: _Member) -> None:
        if self._full_train_flops is None and not self._folder.joinpath(_SCALE).exists():
            return  # no member has reported
        for event in events.read_events(self._folder / str(number)):
            if event["kind"] == "exploit" and "metrics" in event:
                member.curve = [(event["donor_fraction"], self._value(event))]
            elif event["kind"] == "report":
                member.curve.append((self._fraction(number, event), self._value(event)))

    def _fraction(self, number: int, report: Mapping[str, Any]) -> float:
        flat = {f"{METRICS}/{key}": value for key, value in report["metrics"].items()}
        result = {"epoch": report["epoch"], "full_train_flops": self._full_train_flops, **flat}
        return self._scale.fraction(str(number), result)

    def _value(self, report: Mapping[str, Any]) -> float:
        return float(report["metrics"][self._config.search.metric])


def _costs(report: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in report["metrics"].items() if key.startswith("cost/")}


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    changed = [
        f"{key} {before.get(key)} -> {value}" for key, value in now.items() if before.get(key) != value
    ]
    return ", ".join(changed) or "nothing changed"


def _checkpoints(trial: Path) -> list[Path]:
    return sorted((trial / "checkpoints").glob("step-*"))


def _step(path: Path) -> int:
    """The number in the name of a folder: `step-000000120`, `taken-2`."""
    return int(path.name.split("-")[1])


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
