"""A training in which things go wrong: what, is written in its learning rate; when, in epoch 3."""

from __future__ import annotations

import os
import time
from pathlib import Path

from stand_in import StandIn, StandInTraining

from growcore.config import TrialConfig
from sweeps.trial import replicate
from sweeps.trial.worker import SweepTrial

HANGS_ONCE, HANGS, CRASHES_ONCE, CRASHES = 0.51, 0.52, 0.53, 0.54
EPOCH = 3


class FaultyTraining(StandInTraining):
    def train_epoch(self) -> None:
        super().train_epoch()
        if self.epoch == EPOCH - 1:
            self.fail(self.config.optimizer.lr)

    def fail(self, lr: float) -> None:
        if lr in (HANGS, HANGS_ONCE) and (lr == HANGS or first_time("hung")):
            time.sleep(1000)
        if lr in (CRASHES, CRASHES_ONCE) and (lr == CRASHES or first_time("crashed")):
            raise RuntimeError("the device is gone")


def first_time(what: str) -> bool:
    """Whether nobody asked before; the working folder is that of the sweep."""
    try:
        os.close(os.open(what, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


class Faulty(StandIn):
    def build(self, config: TrialConfig, device: str) -> StandInTraining:
        return FaultyTraining(config, self.seconds)

    def newest(self, folder: Path) -> Path | None:
        replicate.CHECKPOINT_SECONDS = 0.0  # of this worker: a checkpoint after every report
        return super().newest(folder)


class FaultyTrial(SweepTrial):
    engine = Faulty(seconds=0.3)


class SlowFaultyTrial(SweepTrial):
    engine = Faulty(seconds=1.5)
