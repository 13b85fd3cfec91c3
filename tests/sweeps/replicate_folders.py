"""A trial with replicates as its worker and its driver leave it, written by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stand_in import trial_config

from sweeps.kept import events, replicates
from sweeps.kept.trials import Outcome

_CLOCK = itertools.count(1_700_000_000)
FLOPS = 1e6  # of an epoch of replicate 0; replicate 1 takes twice as many, and so on


@dataclass
class Replicated:
    """Replicates that reported these validation accuracies, epoch by epoch; ten steps are an epoch.

    Each grows once an epoch, and replicate INDEX prunes INDEX times in the last one.
    """

    folder: Path  # of the trial
    curves: Sequence[Sequence[float]]
    config: dict[str, Any] = field(default_factory=lambda: trial_config().to_dict())
    params: dict[str, Any] = field(default_factory=lambda: {"optimizer.lr": 0.125})

    @property
    def num_epochs(self) -> int:
        return min(map(len, self.curves))

    def given(self) -> None:
        """What the driver writes of a trial that starts, and the worker of its replicates."""
        number = int(self.folder.name)
        command = "sweeps train optimizer.lr=0.125"
        given = {"number": number, "params": self.params, "overrides": [], "command": command}
        events.write_json(self.folder / events.GIVEN, {**given, "config": self.config})
        for index in range(len(self.curves)):
            config = replicates.config(self.config, index)
            own = {**given, "command": f"{command} seed={config['seed']}", "config": config}
            path = self.folder / str(index) / events.GIVEN
            events.write_json(path, {**own, "replicate": index})

    def report(self, first: int = 1, last: int | None = None) -> None:
        """Epochs from `first` to `last`, by a new worker."""
        own = [events.EventWriter(self.folder / str(index)) for index in range(len(self.curves))]
        mean = events.EventWriter(self.folder)
        for writer in (*own, mean):
            self._write(writer, "started", {"continues": None, "pid": 7, "host": "here"})
        for epoch in range(first, 1 + (last or self.num_epochs)):
            for index, writer in enumerate(own):
                self._write(writer, "report", self._report(index, epoch))
            self._write(mean, "report", self._mean(epoch))

    def end(self, state: str = "complete", reason: str | None = None) -> None:
        """The newest checkpoint of each replicate, and how the trial ended."""
        for index in range(len(self.curves)):
            checkpoint = self.checkpoint(index)
            checkpoint.mkdir(parents=True, exist_ok=True)
            (checkpoint / "state.pt").write_text(f"weights of {index}")
        told = {"state": state, "reason": reason, "value": None}
        events.write_json(self.folder / events.OUTCOME, {**told, **self.outcome().to_dict()})

    def write(self) -> Outcome:
        """All of a trial that is complete."""
        self.given()
        self.report()
        self.end()
        return self.outcome()

    def checkpoint(self, index: int) -> Path:
        return self.folder / str(index) / "checkpoints" / f"step-{10 * self.num_epochs:09d}"

    def outcome(self) -> Outcome:
        """As the study is told of it."""
        last = [self.metrics(index, self.num_epochs) for index in range(len(self.curves))]
        return Outcome(
            metrics=replicates.mean(last),
            step=10 * self.num_epochs,
            epoch=float(self.num_epochs),
            num_grown=self.num_epochs * len(last),
            num_pruned=sum(range(len(last))),
            checkpoint=str(self.checkpoint(0)),
            replicates=last,
        )

    def metrics(self, index: int, epoch: int) -> dict[str, float]:
        value = self.curves[index][epoch - 1]
        return {
            "val/accuracy": value,
            "val/loss": 1 - value,
            "test/accuracy": value - 0.25,
            "model/parameters": 1000.0 + 100 * index,
            "model/nonzero_parameters": 500.0,
            "cost/train_flops": FLOPS * (index + 1) * epoch,
            "cost/wall_seconds": 2.0 * epoch,
        }

    def _report(self, index: int, epoch: int) -> dict[str, Any]:
        is_last = epoch == self.num_epochs
        kinds = ["grow", *(["prune"] * index if is_last else [])]
        edits = [
            {
                "step": 10 * epoch,
                "epoch": epoch,
                "layer": "conv1",
                "kind": kind,
                "number": index,
                "reason": "r",
            }
            for kind in kinds
        ]
        finding = {"severity": "warn", "layer": f"conv{index}", "reason": "Vanishes.", "fix": "Raise."}
        return {
            "step": 10 * epoch,
            "epoch": epoch,
            "metrics": self.metrics(index, epoch),
            "edits": edits,
            "finished": is_last,
            "findings": [finding] if epoch == 1 and index == 1 else [],
        }

    def _mean(self, epoch: int) -> dict[str, Any]:
        metrics = [self.metrics(index, epoch) for index in range(len(self.curves))]
        return {
            "step": 10 * epoch,
            "epoch": epoch,
            "metrics": replicates.mean(metrics),
            "errors": replicates.standard_errors(metrics),
            "edits": [],
            "finished": epoch == self.num_epochs,
            "findings": [],
        }

    def _write(self, writer: events.EventWriter, kind: str, values: dict[str, Any]) -> None:
        writer.write(kind, {**values, "time": next(_CLOCK)})
