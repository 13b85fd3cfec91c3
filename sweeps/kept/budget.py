"""What a sweep may spend, what it has spent, and when it has to end: decisions on plain values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sweeps.config.errors import ConfigError

MIN_ENDED = 8  # trials that have to end before their failures stop a sweep


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a sweep may spend; None: no such limit. The first that is spent ends it.

    Trials that run then are finished: a sweep may spend somewhat more than it was given.
    """

    num_trials: int | None = None  # handed out, whatever becomes of them
    hours: float | None = None  # wall time in which a driver ran
    gpu_hours: float | None = None  # time of trials times the GPUs each of them holds
    train_flops: float | None = None  # of all trials together, replicates too

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `Budget(**values)` reads them back."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What a sweep has spent, in the units of `Budget`."""

    num_trials: int = 0
    hours: float = 0.0
    gpu_hours: float = 0.0
    train_flops: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `Spent(**values)` reads them back."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


_UNITS = {"num_trials": "trials", "hours": "h", "gpu_hours": "GPU h", "train_flops": "train FLOPs"}
_OPTIONS = {
    "num_trials": "--trials",
    "hours": "--hours",
    "gpu_hours": "--gpu-hours",
    "train_flops": "--train-flops",
}


def ended_by(budget: Budget, spent: Spent) -> str | None:
    """Which budget is spent, for people: `2.01 of 2 h`; None while a trial may be started."""
    over = (text for name, text in _each(budget, spent) if getattr(spent, name) >= getattr(budget, name))
    return next(over, None)


def described(budget: Budget, spent: Spent) -> str:
    """What is spent of each budget: `12 of 16 trials, 0.8 of 2 h`."""
    return ", ".join(text for _, text in _each(budget, spent))


def limits(budget: Budget) -> list[str]:
    """Each budget in words: `16 trials`, `2 h`."""
    values = ((name, getattr(budget, name)) for name in _UNITS)
    return [f"{_number(value)} {_UNITS[name]}" for name, value in values if value is not None]


def _each(budget: Budget, spent: Spent) -> Iterator[tuple[str, str]]:
    for name, unit in _UNITS.items():
        if (limit := getattr(budget, name)) is not None:
            yield name, f"{_number(getattr(spent, name))} of {_number(limit)} {unit}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and value < 1e6 else f"{value:.3g}"


def amended(budget: Budget, spent: Spent, name: str, words: str) -> Budget:
    """A budget with one of its values changed.

    Args:
        budget: as it is.
        spent: what of it is spent.
        name: field of Budget.
        words: `+20` for so much more, `84` for so much in all.

    Raises:
        ConfigError: the words are no number, there is nothing to add to, or that much is spent already.
    """
    option = _OPTIONS[name]
    number = r"\d+" if name == "num_trials" else r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
    if re.fullmatch(rf"\+?{number}", words) is None:
        raise ConfigError(f"{option} must be +NUMBER, or NUMBER in all; got {words}.")
    value = int(words) if name == "num_trials" else float(words)
    before = getattr(budget, name)
    if words.startswith("+") and before is None:
        raise ConfigError(
            f"{option} {words}: the sweep has no such limit to add to. To set one: {option} NUMBER."
        )
    after = before + value if words.startswith("+") else value
    if after < getattr(spent, name):
        verb = "handed out" if name == "num_trials" else "spent"
        raise ConfigError(
            f"The sweep has {verb} {_number(getattr(spent, name))} {_UNITS[name]}, so {_number(after)} are "
            f"too few. To add some: {option} +20."
        )
    return Budget(**{**budget.to_dict(), name: after})


def too_many(reasons: Sequence[str], num_ended: int, share: float) -> str | None:
    """Why a sweep has to stop where too many of its trials failed, or None.

    Args:
        reasons: why each failed trial failed.
        num_ended: trials that ended, the failed ones among them.
        share: more than this fraction of them stops the sweep, from 8 ended ones on.
    """
    if num_ended < MIN_ENDED or len(reasons) <= share * num_ended:
        return None
    (reason, count) = Counter(reasons).most_common(1)[0]
    return (
        f"{len(reasons)} of {num_ended} trials failed, more than sweep.max_failed={share:g} allows; "
        f"{count} of them: {reason}"
    )
