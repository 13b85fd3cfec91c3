"""Finding what users bring: built in, by entry point, or in a module that `imports` names."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from growcore.config.schema import suggest_name


def find(
    name: str, built_in: Mapping[str, Any], table: str, entry_points: str, imports: Sequence[str] = ()
) -> Any:
    """The object known under a name.

    Args:
        name: as the configuration gives it.
        built_in: the names that growcore knows by itself; they come first.
        table: attribute of an imported module that maps names to objects, `DATA_SETS` or `MODELS`.
        entry_points: the entry point group of installed packages.
        imports: modules to look into, as `package.module`.

    Raises:
        ValueError: nothing has the name, or a module cannot be imported or has no such table.
    """
    if name in built_in:
        return built_in[name]
    known = list(built_in)
    for module_name in imports:
        mapping = _table(module_name, table)
        if name in mapping:
            return mapping[name]
        known += mapping
    for point in metadata.entry_points(group=entry_points):
        if point.name == name:
            return point.load()
        known.append(point.name)
    raise ValueError(f"Unknown name '{name}' among {table}. {suggest_name(name, known)}")


def _table(module_name: str, table: str) -> Mapping[str, Any]:
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"imports names the module '{module_name}', which cannot be imported here: {error}. "
            f"Install its package on every machine that runs trials, or mend the name."
        ) from error
    mapping: Mapping[str, Any] = getattr(module, table, {})
    return mapping
