"""A training that costs nothing: for tests of everything around a training."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from growcore.config import DataConfig, ModelConfig, OptimizerConfig, TrainingConfig, TrialConfig
from growcore.training.report import TrialFailed
from sweeps.kept.trials import TrialRow
from sweeps.search import SamplerSettings
from sweeps.trial.worker import SweepTrial

RANDOM = SamplerSettings(name="random", seed=1)


@dataclass(frozen=True)
class StandInReport:
    step: int
    epoch: int
    metrics: dict[str, float]
    edits: list[dict[str, Any]]
    finished: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class StandInTraining:
    """Its accuracy rises with the epoch towards a value set by the learning rate, best at 0.1, seed 0.

    A learning rate above 0.9 becomes NaN in epoch 2; a batch size of 13 raises; 7 ends the process, once.
    """

    config: TrialConfig
    seconds: float = 0.0
    epoch: int = 0
    paused: bool = False
    reported: list[int] = field(default_factory=list)

    def __iter__(self) -> Any:
        while self.epoch < self.config.training.num_epochs:
            self.train_epoch()
            if self.paused:
                return
            self.epoch += 1
            if self.config.optimizer.lr > 0.9 and self.epoch == 2:
                raise TrialFailed("the training loss became nan in epoch 2")
            if self.config.training.batch_size == 13:
                raise RuntimeError("thirteen\nis unlucky")
            self.reported.append(self.epoch)
            yield self.report()

    def train_epoch(self) -> None:
        time.sleep(self.seconds)

    def report(self) -> StandInReport:
        finished = self.epoch == self.config.training.num_epochs
        accuracy = accuracy_of(self.config.optimizer.lr) * (1 - 0.5**self.epoch) - 0.01 * self.config.seed
        metrics = {
            "val/accuracy": accuracy,
            "model/parameters": 1000.0 + 10 * self.epoch,
            "model/nonzero_parameters": 500.0,
            "cost/train_flops": 1e6 * self.epoch,
            "cost/wall_seconds": self.seconds * self.epoch,
        }
        if finished:
            metrics["test/accuracy"] = accuracy - 0.01
        edit = {
            "step": self.epoch * 10,
            "epoch": self.epoch,
            "layer": "conv1",
            "number": 2,
            "reason": "because",
        }
        return StandInReport(self.epoch * 10, self.epoch, metrics, [{**edit, "kind": "grow"}], finished)


def accuracy_of(lr: float) -> float:
    return 1.0 - 0.2 * abs(math.log10(lr) + 1)


class StandIn:
    """The engine of stand-in trainings; `seconds` is what an epoch takes."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.built: list[StandInTraining] = []

    def build(self, config: TrialConfig, device: str) -> StandInTraining:
        self.built.append(StandInTraining(config, self.seconds))
        return self.built[-1]

    def full_train_flops(self, base: TrialConfig, device: str) -> float:
        return 1e6 * base.training.num_epochs

    def pause(self, training: StandInTraining) -> None:
        training.paused = True

    def save(self, folder: Path, training: StandInTraining) -> Path:
        path = folder / f"step-{training.epoch * 10:09d}"
        path.mkdir(parents=True, exist_ok=True)
        (path / "state.json").write_text(json.dumps(training.epoch))
        return path

    def newest(self, folder: Path) -> Path | None:
        return max(folder.glob("step-*"), default=None)

    def load(self, path: Path, training: StandInTraining, device: str) -> int:
        training.epoch = json.loads((path / "state.json").read_text())
        return training.epoch * 10


class StandInTrial(SweepTrial):
    engine = StandIn()


class SlowStandInTrial(SweepTrial):
    engine = StandIn(seconds=0.2)


def trial_config(**training: Any) -> TrialConfig:
    values = {"num_epochs": 4, **training}
    lr = values.pop("lr", 0.1)
    return TrialConfig(
        data=DataConfig(name="digits"),
        model=ModelConfig(name="mlp", widths=[4]),
        optimizer=OptimizerConfig(lr=lr),
        training=TrainingConfig(**values),
    )


class LearningRates:
    """A space of one key."""

    def __init__(self, low: float = 1e-3, high: float = 1.0, forbidden: float | None = None) -> None:
        self.low = low
        self.high = high
        self.forbidden = forbidden  # learning rates above it contradict something

    def suggest(self, trial: Any) -> dict[str, Any]:
        return {"optimizer.lr": trial.suggest_float("optimizer.lr", self.low, self.high, log=True)}

    def overrides(self, params: dict[str, Any]) -> list[str]:
        return [f"{key}={value!r}" for key, value in params.items()]

    def apply(self, params: dict[str, Any]) -> TrialConfig:
        if self.forbidden is not None and params["optimizer.lr"] > self.forbidden:
            raise ValueError(f"optimizer.lr={params['optimizer.lr']} is above {self.forbidden}.")
        return trial_config(lr=params["optimizer.lr"])


class Heard:
    """What a searcher tells its listener."""

    def __init__(self) -> None:
        self.rows: list[TrialRow] = []
        self.lines: list[str] = []
        self.paused_ones: list[int] = []
        self.gave_up: str | None = None

    def paused(self, number: int) -> None:
        self.paused_ones.append(number)

    def ended(self, row: TrialRow) -> None:
        self.rows.append(row)

    def give_up(self, reason: str) -> None:
        self.gave_up = reason

    def say(self, text: str) -> None:
        self.lines.append(text)
