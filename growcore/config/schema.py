"""Between plain values and dataclasses that check themselves: keys, types and their messages; no torch.

A dataclass whose field is again a dataclass is a group of keys: `model.widths` is the field `widths` of the
part `model`. What a key holds follows from the annotation alone, so a new field needs no entry elsewhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Hashable, Mapping
from enum import StrEnum
from typing import Any, TypeVar, cast

Config = TypeVar("Config")


def build(cls: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    """A configuration from plain values; `plain` gives them back.

    Args:
        cls: a keyword-only dataclass of numbers, texts, lists, StrEnums and parts that are dataclasses.
        values: by field name.
        prefix: of the keys in messages, such as `model.`.

    Raises:
        ValueError: an unknown or missing key, a value of another type, or what a part's own check says.
    """
    fields = {f.name: f for f in dataclasses.fields(cast(Any, cls))}
    for key in values:
        if key not in fields:
            raise ValueError(f"Unknown key '{prefix}{key}'. {suggest_name(key, list(fields))}")
    arguments, types = {}, _types(cast(Hashable, cls))
    for name, f in fields.items():
        if name in values:
            arguments[name] = _convert(f"{prefix}{name}", values[name], types[name], str(f.type))
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ValueError(f"Missing key '{prefix}{name}': it has no default. Set {prefix}{name}=VALUE.")
    return cls(**arguments)


def plain(config: Any) -> dict[str, Any]:
    """Nested dictionaries, lists, texts and numbers of a configuration."""
    return cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def keys(cls: type[Any], prefix: str = "") -> list[str]:
    """Every dotted key that holds a value, in order of definition."""
    found = []
    for name, annotation in _types(cast(Hashable, cls)).items():
        is_part = dataclasses.is_dataclass(annotation)
        found += keys(cast(type[Any], annotation), f"{name}.") if is_part else [f"{prefix}{name}"]
    return found


def suggest_name(name: str, known: list[str] | tuple[str, ...]) -> str:
    """A hint ` Did you mean 'x'?` where a known name is close, else the list of known names."""
    return _hint(name, known) or f"Known: {', '.join(known)}."


def require(holds: bool, key: str, value: object, rule: str, example: str) -> None:
    """Refuse a value that breaks a rule, with a value that keeps it."""
    if not holds:
        raise ValueError(f"{key} {rule}; got {key}={value}. For example {key}={example}.")


@functools.cache
def _types(cls: Hashable) -> dict[str, Any]:
    assert isinstance(cls, type)
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _convert(key: str, value: Any, annotation: Any, written: str) -> Any:
    if dataclasses.is_dataclass(annotation):
        if not isinstance(value, Mapping):
            raise ValueError(f"'{key}' is a group of keys; got the single value {value!r}.")
        return build(cast(type[Any], annotation), value, f"{key}.")
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return _member(key, value, annotation)
    if value is None and written.endswith("| None"):
        return None
    return _scalar(key, value, written.removesuffix(" | None"))


def _member(key: str, value: Any, enum: type[StrEnum]) -> StrEnum:
    known = [member.value for member in enum]
    if value is False and "off" in known:
        value = "off"  # YAML reads a bare off as false
    if value not in known:
        hint = _hint(value, known)
        raise ValueError(f"{key}={value!r} is not one of {', '.join(known)}. {hint}".strip())
    return enum(value)


def _scalar(key: str, value: Any, annotation: str) -> Any:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    checks = {
        "int": is_integer,
        "float": is_integer or isinstance(value, float),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "list[int]": isinstance(value, list | tuple)
        and all(isinstance(v, int) and not isinstance(v, bool) for v in value),
        "list[str]": isinstance(value, list | tuple) and all(isinstance(v, str) for v in value),
    }
    if not checks[annotation]:
        raise ValueError(f"{key} must be of type {annotation}; got {value!r}.")
    if annotation == "float":
        return float(value)
    return list(value) if annotation.startswith("list") else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value


def _hint(value: Any, known: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(value), known, n=1)
    return f"Did you mean '{close[0]}'?" if close else ""
