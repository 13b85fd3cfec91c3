"""Values as words of a command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_WORDS_WITH_MEANING = ("null", "true", "false", "nan", "inf")


def quote(value: Any) -> str:
    """A value as Hydra reads it back exactly from the right side of KEY=VALUE."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(quote, value))}]"
    text = str(value)
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", text) and text.lower() not in _WORDS_WITH_MEANING:
        return text
    # A backslash escapes only before a quote: every run of them that meets one is doubled.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"
