"""What chooses the next trial: Optuna's samplers by name, with their options and what each cannot do."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import optuna

from growcore.config import suggest_name
from sweeps.config.errors import ConfigError
from sweeps.config.settings import SAMPLERS, SearchConfig
from sweeps.search.goals import Goals

_RESEED = 1_000_003  # a prime: seeds of consecutive resumes never meet those of neighbouring sweeps
_OURS = ("seed", "multivariate", "group", "warn_independent_sampling", "warn_asynchronous_seeding")
_DEPRECATED = (
    *("consider_prior", "prior_weight", "consider_magic_clip", "consider_endpoints"),
    *("sigma0", "restart_strategy", "inc_popsize"),
)
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerSettings:
    """What chooses parameters: equal settings and the same order of asks and tells give equal parameters."""

    name: str = "tpe"  # a short name, or a class of optuna.samplers
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)  # arguments of that class

    @classmethod
    def of(cls, search: SearchConfig) -> Self:
        """What a configuration asks for."""
        return cls(name=search.sampler, seed=search.seed, options=search.options)


@dataclass(frozen=True, slots=True)
class Key:
    """What a sampler must know of a searched key."""

    name: str
    is_conditional: bool = False  # some trials lack it
    is_choice: bool = False
    is_finite: bool = False  # its values can be counted


class _Grid(optuna.samplers.BruteForceSampler):
    """Every configuration once, in a random order."""

    def after_trial(self, *args: Any) -> None:
        """Nothing: Optuna would stop a loop that does not exist; the study sees that a space is exhausted."""


def build(settings: SamplerSettings, num_asked: int) -> optuna.samplers.BaseSampler:
    """The sampler, its seed moved on by the trials that were asked for.

    Raises:
        ConfigError: an unknown sampler or option, or a value the sampler does not take.
    """
    cls = _class(settings.name)
    _check_options(settings, cls)
    seed = (settings.seed + _RESEED * num_asked) % 2**32
    given: dict[str, Any] = {"seed": seed, **settings.options}
    if cls is optuna.samplers.TPESampler:
        # Grouped TPE models conditional keys where they exist.
        given |= {"multivariate": True, "group": True}
    if cls is optuna.samplers.QMCSampler:
        # The sequence goes on where it was, so its seed must stay; what is independent moves on.
        given |= {"seed": settings.seed, "independent_sampler": optuna.samplers.RandomSampler(seed=seed)}
    if cls in (_CLASSES["cmaes"], _CLASSES["gp"], _CLASSES["qmc"]):
        given["warn_independent_sampling"] = False  # the plan says it once
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            return cls(**given)
        except ValueError as error:
            raise ConfigError(f"search.options of search.sampler={settings.name}: {error}") from error


def limits(settings: SamplerSettings, keys: Sequence[Key], goals: Goals, num_trials: int | None) -> list[str]:
    """What people should know of a sampler before it searches these keys.

    Args:
        settings: of the sampler.
        keys: what it is to search.
        goals: what for.
        num_trials: it will have; None: nobody knows.

    Raises:
        ConfigError: the sampler cannot search them, or its options are wrong.
    """
    build(settings, 0)
    name = settings.name
    cls = _class(name)
    check = _CHECKS.get(cls)
    notes = check(settings, keys, goals, num_trials) if check else []
    if goals.constraints and cls not in _SEE_CONSTRAINTS:
        notes.append(f"{name} does not see constraints: they rank trials, and do not guide the search")
    return notes


def _class(name: str) -> type[optuna.samplers.BaseSampler]:
    if name in _CLASSES:
        return _CLASSES[name]
    known = [n for n in optuna.samplers.__all__ if n.endswith("Sampler") and not n.startswith("Base")]
    if name not in known:
        hint = suggest_name(name, [*SAMPLERS, *known])
        raise ConfigError(f"Unknown search.sampler={name}. {hint}")
    found = getattr(optuna.samplers, name)
    needed = [p.name for p in _parameters(found).values() if p.default is p.empty]
    if needed:
        raise ConfigError(
            f"search.sampler={name} needs {', '.join(needed)}, which cannot be written as plain values. "
            "For every configuration once: search=grid."
        )
    return _Grid if found is optuna.samplers.BruteForceSampler else found


def _parameters(cls: type[Any]) -> dict[str, inspect.Parameter]:
    listed = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return {p.name: p for p in listed if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _kinds(parameter: inspect.Parameter) -> list[str] | None:
    """The plain types a parameter takes, or None where it takes anything else."""
    text = inspect.formatannotation(parameter.annotation).strip("'\"")
    kinds = [kind.strip() for kind in text.split("|")]
    return kinds if all(kind in _TYPES for kind in kinds) else None


def _check_options(settings: SamplerSettings, cls: type[Any]) -> None:
    kinds = {n: _kinds(p) for n, p in _parameters(cls).items() if n not in _OURS + _DEPRECATED}
    known = {name: found for name, found in kinds.items() if found is not None}
    for name, value in settings.options.items():
        where = f"search.options.{name}"
        if name == "seed":
            raise ConfigError(f"{where}: the seed of every sampler is search.seed.")
        if name not in known:
            told = f"Known: {', '.join(known)}." if known else "It has none: search.options={}."
            raise ConfigError(
                f"search.sampler={settings.name} has no option '{name}'. {told} "
                "Choosing the whole file (search=NAME) brings the options that fit a sampler."
            )
        allowed = tuple(t for kind in known[name] for t in _TYPES[kind])
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise ConfigError(f"{where} must be of type {' or '.join(known[name])}; got {value!r}.")


# What each sampler cannot do

_Check = Callable[[SamplerSettings, Sequence[Key], Goals, int | None], list[str]]


def _names(keys: Sequence[Key]) -> str:
    return ", ".join(key.name for key in keys)


def _grid(settings: SamplerSettings, keys: Sequence[Key], goals: Goals, num_trials: int | None) -> list[str]:
    if endless := [key for key in keys if not key.is_finite]:
        raise ConfigError(
            f"search.sampler={settings.name} runs every configuration once, but these keys have no end of "
            f"values: {_names(endless)}. Give a step ({{float: [0, 1], step: 0.1}}) or a list "
            "({choice: [0.1, 0.2]}); a bound that refers to another key needs a choice."
        )
    return []


def _cmaes(settings: SamplerSettings, keys: Sequence[Key], goals: Goals, num_trials: int | None) -> list[str]:
    if importlib.util.find_spec("cmaes") is None:
        raise ConfigError(f"search.sampler={settings.name} needs a package: pip install cmaes")
    if len(goals.objectives) > 1:
        raise ConfigError(
            f"search.sampler={settings.name} has one objective; got {', '.join(goals.objectives)}. "
            "For several: search=nsga2, search=tpe or search=gp."
        )
    modelled = [key for key in keys if not key.is_conditional and not key.is_choice]
    if len(modelled) < 2:
        raise ConfigError(
            f"search.sampler={settings.name} needs at least two numbers that every trial has; got "
            f"{_names(modelled) or 'none'}. Choose search=tpe, which models every key."
        )
    return _independent(settings.name, [key for key in keys if key not in modelled])


def _without_conditions(
    settings: SamplerSettings, keys: Sequence[Key], goals: Goals, num_trials: int | None
) -> list[str]:
    return _independent(settings.name, [key for key in keys if key.is_conditional])


def _qmc(settings: SamplerSettings, keys: Sequence[Key], goals: Goals, num_trials: int | None) -> list[str]:
    lacking = [key for key in keys if key.is_conditional]
    rule = f"{settings.name} spreads the keys of the first trial; drawn at random where it lacks them"
    return [f"{rule}: {_names(lacking)}"] if lacking else []


def _evolving(
    settings: SamplerSettings, keys: Sequence[Key], goals: Goals, num_trials: int | None
) -> list[str]:
    size = settings.options.get("population_size", 50)
    notes = _without_conditions(settings, keys, goals, num_trials)
    if num_trials is not None and num_trials <= size:
        notes.append(
            f"all {num_trials} trials are random: {settings.name} evolves after population_size={size} trials"
        )
    return notes


def _independent(name: str, keys: Sequence[Key]) -> list[str]:
    return [f"drawn at random, {name} does not model them: {_names(keys)}"] if keys else []


_CLASSES: Mapping[str, type[optuna.samplers.BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "grid": _Grid,
    "nsga2": optuna.samplers.NSGAIISampler,
    "nsga3": optuna.samplers.NSGAIIISampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "gp": optuna.samplers.GPSampler,
    "qmc": optuna.samplers.QMCSampler,
}
assert tuple(_CLASSES) == SAMPLERS
_SEE_CONSTRAINTS = tuple(_CLASSES[name] for name in ("tpe", "nsga2", "nsga3", "gp"))
_CHECKS: Mapping[type[Any], _Check] = {
    _CLASSES["grid"]: _grid,
    _CLASSES["cmaes"]: _cmaes,
    _CLASSES["gp"]: _without_conditions,
    _CLASSES["qmc"]: _qmc,
    _CLASSES["nsga2"]: _evolving,
    _CLASSES["nsga3"]: _evolving,
}
