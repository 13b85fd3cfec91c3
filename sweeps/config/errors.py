"""The error of a wrong request, and the hint it gives."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from growcore.config import list_keys


class ConfigError(ValueError):
    """The request was wrong: the message names the key, the value and the fix (exit code 2)."""


def suggest_key(key: str, known: Sequence[str]) -> str:
    """A hint for an unknown dotted key: the closest of its part, else its part's keys, else all parts.

    Of what reads like an element of a list: how elements are written.
    """
    if match := re.fullmatch(r"(\w+\.\w+)(?:\.(.+)|\[(.+)\])", key):
        name, index = match[1], match[2] or match[3]
        if name in list_keys():
            written = index if re.fullmatch(r"0|[1-9]\d*", index) else "0"
            return f"Did you mean '{name}.{written}'? Elements of {name} are {name}.0, {name}.1 and so on."
        if name in known:
            return f"'{name}' is no list. Did you mean '{name}'?"
        if close := difflib.get_close_matches(name, list_keys(), n=1):
            return f"Did you mean '{close[0]}.{index}'?"
    part, _, name = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if part and k.startswith(f"{part}.")}
    if close := difflib.get_close_matches(name, siblings, n=1):
        return f"Did you mean '{siblings[close[0]]}'?"
    if siblings:
        return f"Known: {', '.join(siblings.values())}."
    if close := difflib.get_close_matches(key, known, n=1):
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(dict.fromkeys(k.partition('.')[0] for k in known))}."
