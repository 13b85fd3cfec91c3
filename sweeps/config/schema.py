"""From plain values to the parts of a sweep's configuration, collections too: types, keys and messages."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sweeps.config.errors import ConfigError, suggest_key


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
