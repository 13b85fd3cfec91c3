"""Elements of lists as keys: `model.widths.0` is the first entry of `model.widths`; values, no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_ELEMENT = re.compile(r"(\w+\.\w+)\.(0|[1-9]\d*)")


def split(key: str) -> tuple[str, int] | None:
    """The list and the index that a key names; None where it names no element."""
    match = _ELEMENT.fullmatch(key)
    return (match[1], int(match[2])) if match else None


def list_of(key: str) -> str:
    """The list of an element; any other key is itself."""
    found = split(key)
    return key if found is None else found[0]


def missing(key: str, held: Any) -> str:
    """Why a list has no such element and how to give it one; `held` is what the list's key holds."""
    name, index = split(key) or (key, 0)
    if not isinstance(held, list):
        what = f"{name} is {'null' if held is None else held}, no list"
    elif not held:
        what = f"{name} is an empty list"
    else:
        last = f" to {name}.{len(held) - 1}" if len(held) > 1 else ""
        what = f"{name}={_written(held)} has {len(held)} of them, {name}.0{last}"
    entries = held if isinstance(held, list) and held else ["null" if held is None else held or 1]
    entries = [*entries, *[entries[-1]] * (index + 1 - len(entries))]
    return (
        f"There is no element {key}: {what}. Give the list as many, for example {name}={_written(entries)}."
    )


def _written(entries: Sequence[Any]) -> str:
    return f"[{','.join('null' if entry is None else str(entry) for entry in entries)}]"
