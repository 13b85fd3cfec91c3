"""Which keys of a trial have an effect, and under which choices, as the objects of methods state; no torch.

A growth method, a pruning method and a model family each state the keys that act under them. From these
follow the refusal of keys without effect, conditions in a search space, and tables for people.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from growcore.config import (
    GrowthConfig,
    ModelConfig,
    PruningConfig,
    TrialConfig,
    elements,
    registry,
    suggest_name,
    trial_keys,
)
from growcore.config.acting import Effect, Keys, Needs, Option
from growcore.config.registry import Kind

# The part of each kind of thing that states its keys, and the field by which the part names it.
_STATED = {
    "model": (registry.MODELS, ModelConfig, "name"),
    "growth": (registry.GROWTH_METHODS, GrowthConfig, "method"),
    "pruning": (registry.PRUNING_METHODS, PruningConfig, "method"),
}
# Removing dead neurons goes beside every pruning method: at its times, by statistics of growth.
_REMOVES = Needs("pruning.remove_dead", (True,))
_ALSO: Mapping[str, tuple[Needs, ...]] = {
    "growth.statistics_batches": (_REMOVES,),
    "pruning.start_epoch": (_REMOVES,),
    "pruning.every_epochs": (_REMOVES,),
    "pruning.end_fraction": (_REMOVES,),
    "training.min_improvement": (Needs("training.patience", above=0),),
}
_UNDER_ALL = ("pruning.remove_dead",)  # keys of a part with methods that none of them states


def effects(imports: Sequence[str] = ()) -> dict[str, Effect]:
    """When each trial key has an effect; keys that always have one are left out.

    Elements of lists have theirs where the list has: see `stated`.

    Args:
        imports: modules whose methods and networks count too; they are imported.

    Raises:
        ValueError: a module cannot be imported.
    """
    ways: dict[str, list[tuple[Needs, ...]]] = {}
    for part, (kind, config, field) in _STATED.items():
        objects = _objects(kind, imports)
        for name in _settings(config, field):
            ways[f"{part}.{name}"] = _ways(part, field, name, objects)
        for option, names in _options(objects).items():
            ways[f"{part}.options.{option}"] = [(Needs(f"{part}.{field}", names),)]
    for key in _UNDER_ALL:
        del ways[key]
    for key, needs in _ALSO.items():
        ways.setdefault(key, []).append(needs)
    return {key: Effect(tuple(found)) for key, found in ways.items() if found != [()]}


def stated(found: Mapping[str, Effect], key: str) -> Effect | None:
    """When a key has an effect, of what `effects` found; an element of a list has it as its list."""
    return found.get(key) or found.get(elements.list_of(key))


def without_effect(config: TrialConfig, keys: Sequence[str]) -> dict[str, Effect]:
    """Those of some keys that do nothing in a trial, each with what it needs."""
    values = config.to_dict()
    found = effects(config.imports)
    effect = {key: stated(found, key) for key in keys}
    return {k: e for k, e in effect.items() if e is not None and not e.holds(lambda k: value(values, k))}


def changeable(imports: Sequence[str] = ()) -> frozenset[str]:
    """Keys of growth and pruning that may change between two epochs, as their methods say.

    Raises:
        ValueError: a module cannot be imported.
    """
    found = set()
    for part in ("growth", "pruning"):
        for method in _objects(_STATED[part][0], imports).values():
            found |= {f"{part}.{key}" for key in method.keys if key not in method.settled}
            found |= {f"{part}.options.{key}" for key in method.options if key not in method.settled}
    return frozenset(found)


def value(values: Mapping[str, Any], key: str) -> Any:
    """What nested dictionaries hold at a dotted key; None where a method's own option is not given."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def known_keys(imports: Sequence[str] = ()) -> list[str]:
    """Every dotted key of a trial that holds a value, the options of known methods too."""
    own = [
        f"{part}.options.{option}"
        for part, (kind, _, _) in _STATED.items()
        for option in _options(_objects(kind, imports))
    ]
    return [*(key for key in trial_keys() if not key.endswith(".options")), *own]


def option(part: GrowthConfig | PruningConfig, options: Mapping[str, Option], name: str) -> Any:
    """The value of a method's own setting: as the configuration gives it, or its default."""
    return part.options.get(name, options[name].default)


def check(config: TrialConfig) -> None:
    """Refuse names that nothing has, and settings that the methods of a trial do not have or take.

    Modules that the configuration's `imports` names are imported, which `TrialConfig` itself does not.

    Raises:
        ValueError: an unknown method, network or data set, an unknown option, a value of another type or out
            of range.
    """
    for kind in registry.NAMED:
        group, _, naming = kind.key.partition(".")
        registry.find(kind, getattr(getattr(config, group), naming), config.imports)
    for name, part in (("growth", config.growth), ("pruning", config.pruning)):
        if not part.options:
            continue
        method = registry.find(_STATED[name][0], part.method, config.imports)
        for setting, given in part.options.items():
            key = f"{name}.options.{setting}"
            if setting not in method.options:
                known = suggest_name(setting, list(method.options)) if method.options else "It has none."
                raise ValueError(f"{key} is no option of {name}.method={part.method}. {known}")
            method.options[setting].check(key, given)


def _objects(kind: Kind, imports: Sequence[str]) -> dict[str, Any]:
    """Objects by name; installed ones are loaded, as they state their keys too."""
    return {name: registry.find(kind, name, imports) for name in registry.known(kind, imports)}


def _settings(config: type[Any], naming: str) -> list[str]:
    return [f.name for f in dataclasses.fields(config) if f.name not in (naming, "options")]


def _options(objects: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Each option of methods, with the methods that have it."""
    found: dict[str, tuple[str, ...]] = {}
    for name, thing in objects.items():
        for each in getattr(thing, "options", ()):
            found[each] = (*found.get(each, ()), name)
    return found


def _ways(part: str, field: str, name: str, objects: Mapping[str, Any]) -> list[tuple[Needs, ...]]:
    """The names under which a key acts, those with the same further needs together."""
    groups: dict[tuple[Needs, ...], list[str]] = {}
    for thing_name, thing in objects.items():
        keys: Keys | None = getattr(thing, "keys", None)
        if not isinstance(keys, Mapping):  # a plain function of a user's: it may read every key
            groups.setdefault((), []).append(thing_name)
        elif name in keys:
            needs = tuple(Needs(f"{part}.{other}", values) for other, values in keys[name].items())
            groups.setdefault(needs, []).append(thing_name)
    return [(*_named(f"{part}.{field}", names, objects), *needs) for needs, names in groups.items()]


def _named(key: str, names: list[str], objects: Mapping[str, Any]) -> tuple[Needs, ...]:
    """That a key names one of these; nothing where it cannot name another one."""
    others = [name for name in objects if name not in names]
    if not others:
        return ()
    return (
        Needs(key, other_than=tuple(others))
        if len(others) < min(len(names), 3)
        else Needs(key, tuple(names)),
    )
