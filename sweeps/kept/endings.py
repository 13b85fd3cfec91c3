"""How an attempt at a trial ends, and what follows from it. Decisions only.

An attempt is one worker's work on a trial. One that is not the trial's end is followed by another attempt,
which continues from the newest checkpoint.
"""

from __future__ import annotations

from enum import StrEnum


class Ending(StrEnum):
    """Why a worker's attempt at a trial is over; an attempt that the scheduler ends has none."""

    finished = "finished"  # trained to its end
    expired = "expired"  # trained as long as cluster.trial_seconds allows
    infeasible = "infeasible"  # its preflight found that the network carries no signal
    failed = "failed"  # training's own verdict, which another attempt would come to as well
    crashed = "crashed"  # an error that another attempt may not meet
    lost = "lost"  # its worker died, or hung and was ended
    preempted = "preempted"  # its worker was told to end, and kept what it had reached
    turn_over = "turn over"  # of population-based training: its slot is another member's
    unrecorded = "unrecorded"  # what happened cannot be written down: a full disk


class Next(StrEnum):
    """What follows an attempt."""

    tell = "tell"  # the study is told how the trial ended
    again = "again"  # another attempt
    wait = "wait"  # another attempt when it is its turn
    leave = "leave"  # the sweep stops; the trial goes on when it is resumed


def following(ending: Ending | None, num_failures: int, max_retries: int) -> Next:
    """What follows an attempt.

    Args:
        ending: of the attempt; None: the scheduler ended it.
        num_failures: attempts at the trial that crashed or were lost, this one too.
        max_retries: so many of them are followed by another attempt.
    """
    match ending:
        case Ending.preempted:
            return Next.again
        case Ending.turn_over:
            return Next.wait
        case Ending.unrecorded:
            return Next.leave
        case Ending.crashed | Ending.lost:
            return Next.again if num_failures <= max_retries else Next.tell
        case _:
            return Next.tell
