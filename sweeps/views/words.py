"""How durations, edits and parameters are said in tables, lines and logs; metrics say it of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def measured(value: float | None, error: float | None = None) -> str:
    """A value, and its standard error where it is a mean: `0.9137 ± 0.0021`."""
    if value is None:
        return "-"
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


def edits_each(num_grown: int, num_pruned: int, num_replicates: int) -> str:
    """Edits that grew and edits that pruned in all replicates together, as told of one training: `6+ 4-`."""
    num = max(1, num_replicates)
    return f"{round(num_grown / num)}+ {round(num_pruned / num)}-"


def chosen(params: Mapping[str, Any]) -> str:
    """Parameters in few words: `tiny, k1 0.31, lr 0.012`."""
    words = []
    for key, value in params.items():
        if isinstance(value, str):
            words.append(value)
        else:
            shown = f"{value:.3g}" if isinstance(value, float) else str(value)
            words.append(f"{_short(key)} {shown}")
    return ", ".join(words)


def _short(key: str) -> str:
    """A key without its part; an element keeps the name of its list."""
    *parts, name = key.split(".")
    return f"{parts[-1]}.{name}" if parts and name.isdigit() else name


def duration(seconds: float) -> str:
    """Seconds as people say them: `48 s`, `18 min`, `2 h 05 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
