"""What a configuration names: data sets, networks, methods, metrics; growcore's own and those of users.

Each kind of thing is a mapping from names to objects. Growcore's own stand in one module, a user's in modules
that the configuration's `imports` names, those of installed packages behind an entry point. Nothing of a
user's is imported but by `find` and `known`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from growcore.config.schema import suggest_name


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing that is known by name."""

    key: str  # of a trial, which names one
    module: str  # that holds growcore's own
    table: str  # the mapping's name, in that module and in a user's
    entry_points: str  # group of the entry points of installed packages


DATA_SETS = Kind("data.name", "growcore.data.sets", "DATA_SETS", "growcore.data")
MODELS = Kind("model.name", "growcore.networks.families", "MODELS", "growcore.models")
GROWTH_METHODS = Kind("growth.method", "growcore.growth.methods", "GROWTH_METHODS", "growcore.growth_methods")
PRUNING_METHODS = Kind(
    "pruning.method", "growcore.sparse.methods", "PRUNING_METHODS", "growcore.pruning_methods"
)
METRICS = Kind("search.metric", "growcore.metrics", "METRICS", "growcore.metrics")
NAMED = (DATA_SETS, MODELS, GROWTH_METHODS, PRUNING_METHODS)


def find(kind: Kind, name: str, imports: Sequence[str] = ()) -> Any:
    """The object of a kind that a configuration names.

    Args:
        kind: what is looked for.
        name: as the configuration gives it; growcore's own come first.
        imports: modules to look into, as `package.module`.

    Raises:
        ValueError: nothing has the name, or a module cannot be imported.
    """
    own = built_in(kind)
    if name in own:
        return own[name]
    for module_name in imports:
        if name in (theirs := _table(module_name, kind.table)):
            return theirs[name]
    for point in metadata.entry_points(group=kind.entry_points):
        if point.name == name:
            return point.load()
    raise ValueError(
        f"Unknown name '{name}' among {kind.table}. {suggest_name(name, list(known(kind, imports)))}"
    )


def built_in(kind: Kind) -> Mapping[str, Any]:
    """Growcore's own objects of a kind."""
    return _table(kind.module, kind.table)


def known(kind: Kind, imports: Sequence[str] = ()) -> dict[str, Any]:
    """All objects of a kind by name: growcore's own, those of `imports`, then installed ones, not loaded.

    Raises:
        ValueError: a module cannot be imported.
    """
    found: dict[str, Any] = {point.name: point for point in metadata.entry_points(group=kind.entry_points)}
    for module_name in reversed(imports):
        found |= _table(module_name, kind.table)
    return {**built_in(kind), **{name: thing for name, thing in found.items() if name not in built_in(kind)}}


def check_name(kind: Kind, name: str, imports: Sequence[str]) -> None:
    """Refuse a name that nothing can have; a user's modules, which may have it, are not imported for it.

    Raises:
        ValueError: the name is neither growcore's nor an installed package's, and nothing is imported.
    """
    if imports or name in built_in(kind):
        return
    names = (*built_in(kind), *(point.name for point in metadata.entry_points(group=kind.entry_points)))
    if name not in names:
        raise ValueError(
            f"Unknown {kind.key}={name!r}. {suggest_name(name, names)} One of your own stands in a table "
            f"{kind.table} of a module listed in 'imports', or is registered by the entry point group "
            f"'{kind.entry_points}'."
        )


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
