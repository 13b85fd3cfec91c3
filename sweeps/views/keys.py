"""Every key of a configuration: its default, what it means, and where it has an effect."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from growcore import keys
from growcore.config import TrialConfig, list_keys, registry, suggest_name
from growcore.config.acting import Option
from growcore.config.schema import meanings
from sweeps.config.errors import ConfigError
from sweeps.config.own_modules import importable_from
from sweeps.config.quoting import quote
from sweeps.config.settings import PARTS, SCHEDULER_KEYS, TRIAL_GROUPS
from sweeps.views.tables import table

_METHODS = {"growth": registry.GROWTH_METHODS, "pruning": registry.PRUNING_METHODS, "model": registry.MODELS}


def render(parts: Sequence[str], imports: Sequence[str] = ()) -> RenderableType:
    """A table of each part.

    Args:
        parts: their names; none: all.
        imports: modules whose methods have keys and names too.

    Raises:
        ConfigError: there is no such part, or a module cannot be imported.
    """
    importable_from(Path.cwd())
    known = _parts()
    for part in parts:
        if part not in known:
            raise ConfigError(
                f"No part of a configuration is called '{part}'. {suggest_name(part, list(known))}"
            )
    try:
        effects = {key: str(effect) for key, effect in keys.effects(imports).items()}
        return Group(*(_table(part, known[part], effects, imports) for part in parts or known))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _parts() -> dict[str, type[Any]]:
    hints: dict[str, type[Any]] = typing.get_type_hints(TrialConfig)
    of_a_trial = {name: hints[name] for name in TRIAL_GROUPS}
    return {**of_a_trial, "trial": TrialConfig, **PARTS}


def _table(part: str, cls: type[Any], effects: dict[str, str], imports: Sequence[str]) -> RenderableType:
    rows = list(_rows(part, cls, effects))
    rows += _own_options(part, effects, imports)
    return Group(table(rows, part, "default", "meaning", "has an effect where"), *_names(part, imports), "")


def _rows(part: str, cls: type[Any], effects: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    hints, means = typing.get_type_hints(cls), meanings(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]) or (field.name == "options" and part in _METHODS):
            continue
        key = field.name if part == "trial" else f"{part}.{field.name}"
        where = effects.get(key, _of_scheduler(field.name) if part == "scheduler" else "")
        meaning = _meaning(means[field.name], hints[field.name])
        yield key, _default(field), f"{meaning}{_addressed(key)}", where


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return quote(field.default)
    return "" if field.default_factory is dataclasses.MISSING else quote(field.default_factory())


def _meaning(text: str, annotation: Any) -> str:
    text = text.replace("None", "null")
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return f"{text.rstrip('.')}: {', '.join(annotation)}"
    return text


def _addressed(key: str) -> str:
    """How the entries of a list are named, on a command line and in a space."""
    return f" ({key}.0 is the first entry, a key too)" if key in list_keys() else ""


def _of_scheduler(name: str) -> str:
    under = [scheduler.value for scheduler, names in SCHEDULER_KEYS.items() if name in names]
    return f"scheduler in [{', '.join(under)}]" if under else ""


def _own_options(
    part: str, effects: dict[str, str], imports: Sequence[str]
) -> Iterator[tuple[str, str, str, str]]:
    if part not in _METHODS:
        return
    for name in registry.known(_METHODS[part], imports):
        options: dict[str, Option] = getattr(registry.find(_METHODS[part], name, imports), "options", {})
        for option, about in options.items():
            key = f"{part}.options.{option}"
            yield key, quote(about.default), about.meaning, effects[key]


def _names(part: str, imports: Sequence[str]) -> Iterator[RenderableType]:
    """What a part may be: its methods, or its families of networks."""
    if part not in _METHODS:
        return
    kind = _METHODS[part]
    found = {name: registry.find(kind, name, imports) for name in registry.known(kind, imports)}
    yield Text()
    yield table(
        ((name, getattr(thing, "meaning", "of your own")) for name, thing in found.items()), kind.key, ""
    )
