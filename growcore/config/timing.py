"""How far a training has come, and whether an edit is due. Values, no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training has come."""

    epoch: int  # epochs finished
    num_epochs: int  # epochs in all
    num_growths: int  # growth events so far


def is_due(progress: Progress, start: int, every: int, end_fraction: float) -> bool:
    """Whether what comes every so many epochs, from a first one to a fraction of all, comes now."""
    since = progress.epoch - start
    return since >= 0 and since % every == 0 and progress.epoch <= end_fraction * progress.num_epochs
