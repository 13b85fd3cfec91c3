"""Where on its schedule a pruning is: what a fraction has come to between the first edit and the last."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from growcore.config.choices import ScheduleShape
from growcore.config.timing import is_due
from growcore.sparse.schedule import Schedule

if TYPE_CHECKING:
    from growcore.config import PruningConfig
    from growcore.config.timing import Progress


def share_left(config: PruningConfig, progress: Progress) -> float:
    """How much of what is to go in the end does not go yet: falls to 0 at the last edit.

    With the constant schedule it is 0: all of it goes each time.
    """
    if config.schedule == ScheduleShape.constant:
        return 0.0
    start, every = config.start_epoch, config.every_epochs
    last = start + (_num_edits(config, progress) - 1) * every
    return _falling(config, 1.0, start - every, last)(progress.epoch)


def exchanged_fraction(config: PruningConfig, progress: Progress) -> float:
    """The fraction of the connections alive that is exchanged now: falls to 0 after the last edit.

    With the constant schedule it stays as it is.
    """
    if config.schedule == ScheduleShape.constant:
        return config.fraction
    last = config.start_epoch + _num_edits(config, progress) * config.every_epochs
    return _falling(config, config.fraction, config.start_epoch, last)(progress.epoch)


def last_edit(config: PruningConfig, progress: Progress) -> Progress | None:
    """The last moment up to now at which connections were judged; None before the first."""
    times = (config.start_epoch, config.every_epochs, config.end_fraction)
    moments = (replace(progress, epoch=epoch) for epoch in range(progress.epoch, -1, -1))
    return next((moment for moment in moments if is_due(moment, *times)), None)


def _falling(config: PruningConfig, initial: float, start: int, stop: int) -> Schedule:
    return Schedule(shape=config.schedule.value, initial=initial, final=0.0, start=start, stop=stop)


def _num_edits(config: PruningConfig, progress: Progress) -> int:
    last_epoch = int(config.end_fraction * progress.num_epochs)
    return max((last_epoch - config.start_epoch) // config.every_epochs, 0) + 1
