"""A training that costs nothing and remembers where it came from: for population-based training."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from stand_in import StandInReport

from growcore.config import TrialConfig
from sweeps.trial.worker import SweepTrial


class Learner:
    """Every epoch adds what the learning rate is worth, best at 0.1; checkpoints carry the sum."""

    def __init__(self, config: TrialConfig, seconds: float) -> None:
        self.config = config
        self.seconds = seconds
        self.epoch = 0
        self.level = 0.0
        self.rates: list[float] = []  # of every epoch, those of donors included

    def __iter__(self) -> Any:
        while self.epoch < self.config.training.num_epochs:
            time.sleep(self.seconds)
            self.epoch += 1
            self.level += worth(self.config.optimizer.lr)
            self.rates.append(self.config.optimizer.lr)
            yield self.report()

    def report(self) -> StandInReport:
        metrics = {
            "val/accuracy": self.level,
            "cost/train_flops": 1e6 * self.epoch,
            "cost/wall_seconds": 2.0 * self.epoch,
        }
        finished = self.epoch == self.config.training.num_epochs
        return StandInReport(self.epoch * 10, self.epoch, metrics, [], finished)


def worth(lr: float) -> float:
    return max(0.0, 1.0 - abs(math.log10(lr) + 1)) / 10


class LearnerEngine:
    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def build(self, config: TrialConfig, device: str) -> Learner:
        return Learner(config, self.seconds)

    def full_train_flops(self, base: TrialConfig, device: str) -> float:
        return 1e6 * base.training.num_epochs

    def pause(self, training: Learner) -> None:
        """Never in tests of it."""

    def save(self, folder: Path, training: Learner) -> Path:
        path = folder / f"step-{training.epoch * 10:09d}"
        path.mkdir(parents=True, exist_ok=True)
        state = {"epoch": training.epoch, "level": training.level, "rates": training.rates}
        temporary = path / "state.tmp"
        temporary.write_text(json.dumps(state))  # a link to the file of a donor must not be written through
        temporary.replace(path / "state.json")
        return path

    def newest(self, folder: Path) -> Path | None:
        return max(folder.glob("step-*"), default=None)

    def load(self, path: Path, training: Learner, device: str) -> int:
        state = json.loads((path / "state.json").read_text())
        training.epoch, training.level, training.rates = state["epoch"], state["level"], state["rates"]
        return training.epoch * 10


def read_state(trial: Path) -> dict[str, Any]:
    """Of a trial's newest checkpoint."""
    newest = max((trial / "checkpoints").glob("step-*"))
    return dict(json.loads((newest / "state.json").read_text()))


class LearnerTrial(SweepTrial):
    engine = LearnerEngine(seconds=0.02)
