"""One configuration trained in this process, without a sweep and without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from growcore.config import TrialConfig


def train(config: TrialConfig, device: str = "cpu", checkpoints: Path | None = None) -> Iterator[Any]:
    """Train a configuration to its end and yield each `growcore.training.Report`.

    Args:
        config: what to train.
        device: a torch device.
        checkpoints: folder for the final checkpoint; None: it is not kept.

    Raises:
        growcore.training.TrialFailed: the loss is no longer finite.
    """
    from growcore.training import Training, checkpoint

    training = Training(config, device)
    yield from training
    if checkpoints is not None:
        checkpoint.save(checkpoints, training)
