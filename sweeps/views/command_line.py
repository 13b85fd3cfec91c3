"""Commands that people are given to paste: with paths and options as they are needed where they are shown."""

from __future__ import annotations

from pathlib import Path


def relative(path: Path) -> Path:
    """As seen from where the command was typed, where that is above it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def root_option(root: Path) -> str:
    """The option --root that a command needs; `root` is absolute."""
    return "" if root == Path("runs").absolute() else f" --root {relative(root)}"


def resume(root: Path, name: str) -> str:
    """The command that continues a sweep; `root` is absolute."""
    return f"sweeps resume {name}{root_option(root)}"
