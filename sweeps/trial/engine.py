"""What trains a configuration, as a worker sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from growcore.config import TrialConfig


class Engine(Protocol):
    """What trains: growcore, or a stand-in for tests and benchmarks."""

    def build(self, config: TrialConfig, device: str) -> Any:
        """An iterable of reports, each with `step`, `epoch`, `metrics`, `edits`, `finished`, `to_dict()`."""

    def full_train_flops(self, base: TrialConfig, device: str) -> float:
        """Train FLOPs of a whole trial that is not stopped."""

    def pause(self, training: Any) -> None:
        """Let the iteration end soon, without another report; called in a signal handler."""

    def save(self, folder: Path, training: Any) -> Path:
        """Write a checkpoint into `folder` and return its path; OSError where it cannot be written."""

    def newest(self, folder: Path) -> Path | None:
        """The newest checkpoint that is whole; damaged ones are said in a warning."""

    def load(self, path: Path, training: Any, device: str) -> int:
        """Continue `training` from a checkpoint; returns the step it had reached."""


class Growcore:
    """The engine of every real sweep."""

    def build(self, config: TrialConfig, device: str) -> Any:
        """A growcore Training."""
        from growcore.training import Training

        return Training(config, device)

    def full_train_flops(self, base: TrialConfig, device: str) -> float:
        """Planned growth included; see `growcore.edits.planning.planned_cost`."""
        from growcore.edits.planning import planned_cost

        return float(planned_cost(base).training_flops)

    def pause(self, training: Any) -> None:
        """See `growcore.training.Training.pause`."""
        training.pause()

    def save(self, folder: Path, training: Any) -> Path:
        """See `growcore.training.checkpoint.save`."""
        from growcore.training import checkpoint

        return checkpoint.save(folder, training)

    def newest(self, folder: Path) -> Path | None:
        """See `growcore.training.checkpoint.newest`."""
        from growcore.training import checkpoint

        return checkpoint.newest(folder)

    def load(self, path: Path, training: Any, device: str) -> int:
        """See `growcore.training.checkpoint.load`."""
        from growcore.training import checkpoint

        checkpoint.load(path, training, device)
        return int(checkpoint.read_manifest(path)["step"])
