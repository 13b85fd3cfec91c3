"""Between plain values and the parts of a sweep's configuration: types, keys and their messages."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any


class ConfigError(ValueError):
    """The request was wrong: the message names the key, the value and the fix (exit code 2)."""


def suggest_key(key: str, known: Sequence[str]) -> str:
    """A hint for an unknown dotted key: the closest of its part, else its part's keys, else all parts."""
    part, _, name = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if part and k.startswith(f"{part}.")}
    if close := difflib.get_close_matches(name, siblings, n=1):
        return f"Did you mean '{siblings[close[0]]}'?"
    if siblings:
        return f"Known: {', '.join(siblings.values())}."
    if close := difflib.get_close_matches(key, known, n=1):
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(dict.fromkeys(k.partition('.')[0] for k in known))}."


def build(cls: type[Any], part: str, values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"'{part}' is a group of keys; got the single value {values!r}.")
    annotations = typing.get_type_hints(cls)
    for name in values:
        if name not in annotations:
            known = [f"{part}.{known}" for known in annotations]
            raise ConfigError(f"Unknown key '{part}.{name}'. {suggest_key(f'{part}.{name}', known)}")
    converted = {name: _convert(f"{part}.{name}", value, annotations[name]) for name, value in values.items()}
    try:
        return cls(**converted)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _convert(key: str, value: Any, annotation: Any) -> Any:
    if isinstance(annotation, types.UnionType):
        annotation, _ = typing.get_args(annotation)
        if value is None:
            return None
    if typing.get_origin(annotation) is list:
        (item,) = typing.get_args(annotation)
        return [_convert(key, each, item) for each in _typed(key, value, list)]
    if typing.get_origin(annotation) is dict:
        _, item = typing.get_args(annotation)
        return {str(k): _convert(f"{key}.{k}", each, item) for k, each in _typed(key, value, dict).items()}
    if annotation is Any:
        return value
    if issubclass(annotation, StrEnum):
        known = [member.value for member in annotation]
        if value not in known:
            raise ConfigError(f"{key} must be one of {', '.join(known)}; got {value!r}.")
        return annotation(value)
    if annotation is float and type(value) is int:
        return float(value)
    return _typed(key, value, annotation)


def _typed(key: str, value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise ConfigError(f"{key} must be of type {kind.__name__}; got {value!r}.")
    return value


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value


def require(holds: bool, key: str, value: object, rule: str, example: str) -> None:
    if not holds:
        raise ValueError(f"{key} {rule}; got {key}={value}. For example {key}={example}.")
