"""Between plain values and dataclasses that check themselves: keys, types and their messages; no torch.

A dataclass whose field is again a dataclass is a group of keys: `model.widths` is the field `widths` of the
part `model`. What a key holds follows from the annotation alone, so a new field needs no entry elsewhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
import types
import typing
from collections.abc import Hashable, Mapping
from enum import StrEnum
from typing import Any, TypeVar, cast

Config = TypeVar("Config")
_PLAIN = (int, float, bool, str)


def build(cls: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    """A configuration from plain values; `plain` gives them back.

    Args:
        cls: a keyword-only dataclass of numbers, texts, StrEnums, parts that are dataclasses, and lists and
            dictionaries of such.
        values: by field name.
        prefix: of the keys in messages, such as `model.`.

    Raises:
        ValueError: an unknown or missing key, a value of another type, or what a part's own check says.
    """
    fields = {f.name: f for f in dataclasses.fields(cast(Any, cls))}
    for key in values:
        if key not in fields:
            raise ValueError(f"Unknown key '{prefix}{key}'. {suggest_name(key, list(fields))}")
    arguments, annotations = {}, _types(cast(Hashable, cls))
    for name, f in fields.items():
        if name in values:
            arguments[name] = _convert(f"{prefix}{name}", values[name], annotations[name])
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


def lists(cls: type[Any], prefix: str = "") -> dict[str, bool]:
    """The dotted keys of parts that may hold a list; whether they may hold something else instead."""
    found: dict[str, bool] = {}
    for name, annotation in _types(cast(Hashable, cls)).items():
        if dataclasses.is_dataclass(annotation):
            found |= lists(cast(type[Any], annotation), f"{name}.")
        elif prefix and any(typing.get_origin(kind) is list for kind in _kinds(annotation)):
            found[f"{prefix}{name}"] = len(_kinds(annotation)) > 1
    return found


def meanings(cls: type[Any]) -> dict[str, str]:
    """What each field of a configuration means: the comment behind it, or the lines above it."""
    lines = inspect.getsource(cls).splitlines()
    found: dict[str, str] = {}
    above: list[str] = []
    for line in lines:
        if match := re.fullmatch(r"    (\w+): [^#]+?(?:  # (.*))?", line):
            found[match[1]] = match[2] or " ".join(above)
        above = [*above, line.strip("# ")] if line.startswith("    # ") else []
    return {f.name: found[f.name] for f in dataclasses.fields(cls)}


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


def _convert(key: str, value: Any, annotation: Any) -> Any:
    if isinstance(annotation, types.UnionType):
        if value is None and types.NoneType in typing.get_args(annotation):
            return None
        annotation = _kind_for(key, value, annotation)
    if dataclasses.is_dataclass(annotation):
        return build(cast(type[Any], annotation), _group(key, value), f"{key}.")
    if typing.get_origin(annotation) in (list, dict):
        return _several(key, value, annotation)
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return _member(key, value, annotation)
    if not _is_of(value, annotation):
        raise ValueError(f"{key} must be of type {annotation.__name__}; got {value!r}.")
    return float(value) if annotation is float else value


def _kinds(annotation: Any) -> list[Any]:
    """What a value may be, beside None."""
    is_union = isinstance(annotation, types.UnionType)
    kinds = typing.get_args(annotation) if is_union else (annotation,)
    return [kind for kind in kinds if kind is not types.NoneType]


def _kind_for(key: str, value: Any, annotation: Any) -> Any:
    """The kind of a union that a value is to be: its list for lists, else what is no list."""
    kinds = _kinds(annotation)
    if len(kinds) == 1:
        return kinds[0]
    is_list = isinstance(value, list | tuple)
    kind = next(each for each in kinds if (typing.get_origin(each) is list) == is_list)
    if not is_list and not _is_of(value, kind):
        words = " or ".join(_written(each) for each in kinds)
        raise ValueError(f"{key} must be of type {words}; got {value!r}.")
    return kind


def _group(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"'{key}' is a group of keys; got the single value {value!r}.")
    return value


def _several(key: str, value: Any, annotation: Any) -> list[Any] | dict[str, Any]:
    *_, item = typing.get_args(annotation)
    is_list = typing.get_origin(annotation) is list
    fits = isinstance(value, list | tuple) if is_list else isinstance(value, Mapping)
    values = list(value if is_list else value.values()) if fits else []
    plain_item = item in _PLAIN
    if not fits or (plain_item and not all(_is_of(each, item) for each in values)):
        raise ValueError(f"{key} must be of type {_written(annotation)}; got {value!r}.")
    if is_list:
        return [_convert(key, each, item) for each in values]
    return {str(name): _convert(f"{key}.{name}", each, item) for name, each in value.items()}


def _is_of(value: Any, annotation: Any) -> bool:
    if annotation is Any:
        return True
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if annotation is int:
        return is_integer
    return isinstance(value, annotation) or (annotation is float and is_integer)


def _written(annotation: Any) -> str:
    if typing.get_origin(annotation) is dict:
        return "dict"
    return annotation.__name__ if isinstance(annotation, type) and annotation in _PLAIN else str(annotation)


def _member(key: str, value: Any, enum: type[StrEnum]) -> StrEnum:
    known = [member.value for member in enum]
    if value is False and "off" in known:
        value = "off"  # YAML reads a bare off as false
    if value not in known:
        hint = _hint(value, known)
        raise ValueError(f"{key}={value!r} is not one of {', '.join(known)}. {hint}".strip())
    return enum(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value


def _hint(value: Any, known: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(value), known, n=1)
    return f"Did you mean '{close[0]}'?" if close else ""
