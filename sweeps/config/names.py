"""Names made from what people type: of sweeps, trials and files. Nothing typed becomes a path otherwise."""

from __future__ import annotations

import re

from sweeps.config.errors import ConfigError

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
RULE = "letters, digits, '.', '_' and '-', beginning with a letter or digit"


def is_name(text: str) -> bool:
    """Whether a text may name a sweep or a file."""
    return re.fullmatch(_NAME, text) is not None


def sweep_name(typed: str) -> str:
    """The name of a sweep; a slash at its end, as the Tab key adds it, is dropped.

    Raises:
        ConfigError: it is no name, such as a path.
    """
    name = typed.rstrip("/")
    if not is_name(name):
        raise ConfigError(f"SWEEP is a name, of {RULE}; got '{typed}'. {_instead(name)}")
    return name


def identity(typed: str) -> str:
    """SWEEP, SWEEP/NUMBER or SWEEP/NUMBER/REPLICATE.

    Raises:
        ConfigError: it is none of these.
    """
    name, *numbers = typed.rstrip("/").split("/")
    if not is_name(name) or len(numbers) > 2 or not all(map(is_name, numbers)):
        raise ConfigError(
            f"Write SWEEP, SWEEP/NUMBER or SWEEP/NUMBER/REPLICATE, SWEEP being a name of {RULE}; "
            f"got '{typed}'. {_instead(typed.rstrip('/'))}"
        )
    return "/".join([name, *numbers])


def file_name(option: str, typed: str) -> str:
    """The name of a file in a folder of ours, without its ending.

    Raises:
        ConfigError: it is no name.
    """
    if not is_name(typed):
        raise ConfigError(f"{option} is a name, of {RULE}; got '{typed}'. For example {option} mine.")
    return typed


def _instead(path: str) -> str:
    """What to type in place of a path."""
    folder, _, name = path.rpartition("/")
    if folder and is_name(name):
        return f"Name the sweep and its folder apart: {name} --root {folder}"
    return "See the names with: sweeps list"
