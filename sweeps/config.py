"""What one sweep is: plain dataclasses with every range check; no Hydra, Ray, Optuna or MLflow.

`compose.load` builds a SweepConfig from what a user typed and the YAML folders; `SweepConfig.to_dict` is
what is kept beside a sweep's records, and `from_dict` reads that back without any YAML folder.

A trial group is a part of a trial chosen as a whole file: `growth=tiny` is `conf/growth/tiny.yaml`.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self
from urllib.parse import urlsplit

from growcore.config import TrialConfig, suggest_name

TRIAL_GROUPS = ("data", "model", "growth", "pruning", "optimizer", "training")
GROUPS = (*TRIAL_GROUPS, "space", "search", "scheduler", "cluster", "tracking")
SAMPLERS = ("tpe", "random", "grid", "nsga2", "nsga3", "cmaes", "gp", "qmc")


class ConfigError(ValueError):
    """The request was wrong: the message names the key, the value and the fix (exit code 2)."""


class Direction(StrEnum):
    """Whether a larger or a smaller metric is better."""

    maximize = "maximize"
    minimize = "minimize"


class SchedulerName(StrEnum):
    """What stops weak trials early."""

    none = "none"
    asha = "asha"


class Fidelity(StrEnum):
    """By what trials are compared while they run."""

    epoch = "epoch"
    train_flops = "train_flops"


@dataclass(kw_only=True, slots=True)
class SweepSettings:
    """How large the sweep is and what it is called."""

    name: str | None = None  # also its folder under storage.root; None: the space and four hex digits
    num_trials: int = 16  # trials that end, whatever their end

    def __post_init__(self) -> None:
        _require(
            self.name is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is not None,
            "sweep.name",
            self.name,
            "names a folder: letters, digits, '.', '_' and '-', beginning with a letter or digit",
            "my-sweep",
        )
        _require(self.num_trials >= 1, "sweep.num_trials", self.num_trials, "must be at least 1", "16")


@dataclass(kw_only=True, slots=True)
class SearchConfig:
    """How the next trial is chosen, and what for."""

    sampler: str = "tpe"  # one of SAMPLERS, or the name of a class in optuna.samplers
    options: dict[str, Any] = field(default_factory=dict)  # arguments of that class, plain values
    seed: int = 0  # of the sampler; the same seed and order give the same suggestions
    metric: str = "val/accuracy"  # a metric key of the reports; never test/*, which is shown only
    direction: Direction = Direction.maximize
    further_objectives: dict[str, Direction] = field(default_factory=dict)  # metric -> its direction
    constraints: dict[str, str] = field(default_factory=dict)  # metric -> "<= NUMBER" or ">= NUMBER"
    first: list[Any] = field(default_factory=list)  # trials to try first: best/NAME, or {KEY: VALUE}
    warm_start: list[str] = field(default_factory=list)  # earlier sweeps whose complete trials are known

    def __post_init__(self) -> None:
        _require(
            self.sampler in SAMPLERS or re.fullmatch(r"[A-Z]\w*Sampler", self.sampler) is not None,
            "search.sampler",
            self.sampler,
            f"must be one of {', '.join(SAMPLERS)}, or a class of optuna.samplers",
            "tpe",
        )
        _require(self.seed >= 0, "search.seed", self.seed, "must not be negative", "0")
        for key in (self.metric, *self.further_objectives, *self.constraints):
            _require(
                not key.startswith("test/"),
                "search.metric",
                key,
                "must not be measured on test data, which would then choose",
                "val/accuracy",
            )
        _require(
            self.metric not in self.further_objectives,
            "search.further_objectives",
            self.metric,
            "must not name search.metric again",
            "{model/nonzero_parameters: minimize}",
        )
        for trial in self.first:
            _require(
                isinstance(trial, dict) or (isinstance(trial, str) and trial.startswith("best/")),
                "search.first",
                trial,
                "lists trials, each best/NAME or {KEY: VALUE}",
                "[best/NAME, {pruning.k1: 0.3}]",
            )


@dataclass(kw_only=True, slots=True)
class SchedulerConfig:
    """How weak trials are stopped early."""

    name: SchedulerName = SchedulerName.asha
    fidelity: Fidelity = Fidelity.train_flops  # trials are compared at equal values of it
    grace: float = 0.25  # fraction of a full trial before which none is stopped
    reduction_factor: int = 3  # at every rung the best 1 / reduction_factor go on

    def __post_init__(self) -> None:
        _require(0 < self.grace <= 1, "scheduler.grace", self.grace, "must lie in (0, 1]", "0.25")
        _require(
            self.reduction_factor >= 2,
            "scheduler.reduction_factor",
            self.reduction_factor,
            "must be at least 2",
            "3",
        )


@dataclass(kw_only=True, slots=True)
class ClusterConfig:
    """Where trials run and what each of them takes."""

    address: str | None = None  # of a running Ray cluster; None: one is started on this machine
    num_concurrent: int | None = None  # trials at the same time; None: as many as fit
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0  # may be a fraction: several trials share one GPU

    def __post_init__(self) -> None:
        _require(
            self.num_concurrent is None or self.num_concurrent >= 1,
            "cluster.num_concurrent",
            self.num_concurrent,
            "must be at least 1, or null for as many as fit",
            "null",
        )
        _require(
            self.cpus_per_trial > 0, "cluster.cpus_per_trial", self.cpus_per_trial, "must be positive", "1"
        )
        _require(
            self.gpus_per_trial >= 0,
            "cluster.gpus_per_trial",
            self.gpus_per_trial,
            "must not be negative",
            "0",
        )


@dataclass(kw_only=True, slots=True)
class TrackingConfig:
    """Where MLflow keeps the records."""

    uri: str | None = None  # of the MLflow store or server; None: sqlite:///<storage.root>/mlflow.db
    experiment: str = "growsweep"  # MLflow experiment that holds the runs

    def __post_init__(self) -> None:
        if self.uri is not None and urlsplit(self.uri).password is not None:
            raise ValueError(
                "tracking.uri must not hold a password: configurations are recorded. "
                "Take it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead."
            )


@dataclass(kw_only=True, slots=True)
class StorageConfig:
    """Where a sweep keeps what it must not lose."""

    root: str = "runs"  # folder of optuna.db, mlflow.db and one folder per sweep


@dataclass(kw_only=True, slots=True)
class SweepConfig:
    """Everything that decides a sweep; plain values, so `to_dict` can be kept beside its records.

    `group_options[group][option]` is the part of a trial that a searched group option stands for, typed
    values already written over it; `SearchSpace` needs no YAML folder because of it.
    """

    trial: TrialConfig  # what every trial shares
    space: dict[str, Any]  # trial key or group -> distribution, as written
    space_name: str  # option of the group `space`
    choices: dict[str, str]  # trial group -> its option in `trial`
    group_options: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    sweep: SweepSettings = field(default_factory=SweepSettings)
    search: SearchConfig = field(default_factory=SearchConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    overrides: list[str] = field(default_factory=list)  # KEY=VALUE and GROUP=OPTION as typed, fixes too
    searches: list[str] = field(default_factory=list)  # the KEY=DISTRIBUTION of every --search
    config_dirs: list[str] = field(default_factory=list)  # folders of the user, searched first
    recorded: dict[str, Any] | None = None  # what a best file says of the trial it was exported from

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values; `from_dict` reads them back without any YAML folder."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        parts = {name: _plain(dataclasses.asdict(values[name])) for name in _PARTS}
        return copy.deepcopy(values | parts | {"trial": self.trial.to_dict()})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Check and build a configuration from plain values.

        Raises:
            ConfigError: an unknown or missing key, or a value out of range; the message names the key.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"Unknown key '{key}'. {suggest_name(key, known)}")
        parts = {name: _build(_PARTS[name], name, values[name]) for name in _PARTS if name in values}
        return cls(**{**values, **parts, "trial": build_trial(values["trial"])})


_PARTS: dict[str, type[Any]] = {
    "sweep": SweepSettings,
    "search": SearchConfig,
    "scheduler": SchedulerConfig,
    "cluster": ClusterConfig,
    "tracking": TrackingConfig,
    "storage": StorageConfig,
}


def sweep_keys() -> list[str]:
    """Every dotted key of a sweep that holds a value and is no trial key: `sweep.name`, ..."""
    return [f"{part}.{f.name}" for part, cls in _PARTS.items() for f in dataclasses.fields(cls)]


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


def build_trial(values: Mapping[str, Any]) -> TrialConfig:
    """TrialConfig.from_dict, its ValueError told as a ConfigError."""
    try:
        return TrialConfig.from_dict(values)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Write `value` at the dotted `key` of nested dictionaries, which must hold its part."""
    *parts, name = key.split(".")
    for part in parts:
        values = values[part]
    values[name] = value


def get_key(values: Mapping[str, Any], key: str) -> Any:
    """What nested dictionaries hold at a dotted key."""
    for part in key.split("."):
        values = values[part]
    return values


def _build(cls: type[Any], part: str, values: Any) -> Any:
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


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.value if isinstance(value, StrEnum) else value


def _require(holds: bool, key: str, value: object, rule: str, example: str) -> None:
    if not holds:
        raise ValueError(f"{key} {rule}; got {key}={value}. For example {key}={example}.")
