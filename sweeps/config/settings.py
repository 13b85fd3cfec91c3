"""What one sweep is: plain dataclasses with every range check; no Hydra, Ray, Optuna or MLflow.

`compose.load` builds a SweepConfig from what a user typed and the YAML folders; `SweepConfig.to_dict` is
what is kept beside a sweep's records, and `from_dict` reads that back without any YAML folder.

A trial group is a part of a trial chosen as a whole file: `growth=tiny` is `conf/growth/tiny.yaml`.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self
from urllib.parse import urlsplit

from growcore.config import TrialConfig, elements, list_keys, schema, suggest_name
from growcore.config import trial as trials
from growcore.config.schema import plain, require
from growcore.metrics import Direction as Direction
from sweeps.config.errors import ConfigError
from sweeps.config.names import RULE, is_name

TRIAL_GROUPS = ("data", "model", "growth", "pruning", "optimizer", "training")
GROUPS = (*TRIAL_GROUPS, "space", "search", "scheduler", "cluster", "tracking")
WEBHOOK = "GROWSWEEP_WEBHOOK"  # environment variable with the address of who is told
SAMPLERS = ("tpe", "random", "grid", "nsga2", "nsga3", "cmaes", "gp", "qmc")


class SchedulerName(StrEnum):
    """What stops weak trials early."""

    none = "none"
    asha = "asha"
    hyperband = "hyperband"
    median = "median"
    pbt = "pbt"


# The keys of SchedulerConfig that have an effect under each scheduler, beside `name`.
SCHEDULER_KEYS = {
    SchedulerName.none: (),
    SchedulerName.asha: ("fidelity", "grace", "edit_grace", "reduction_factor"),
    SchedulerName.hyperband: ("fidelity", "grace", "edit_grace", "reduction_factor", "num_brackets"),
    SchedulerName.median: ("fidelity", "grace", "edit_grace"),
    SchedulerName.pbt: ("fidelity", "edit_grace", "interval", "quantile", "perturbation", "resample"),
}


class Fidelity(StrEnum):
    """By what trials are compared while they run."""

    epoch = "epoch"
    train_flops = "train_flops"
    seconds = "seconds"


class NotifyEvent(StrEnum):
    """What may be told to a command or a webhook."""

    finished = "finished"
    failed = "failed"
    best = "best"


@dataclass(kw_only=True, slots=True)
class SweepSettings:
    """How large the sweep is and what it is called.

    The first budget that is spent ends the sweep: trials that run are finished, none is started. Time while
    no driver runs does not count.
    """

    name: str | None = None  # also its folder under storage.root; None: the space and four hex digits
    num_trials: int | None = 16  # trials that end, whatever their end; None: another budget ends the sweep
    max_hours: float | None = None  # wall hours
    max_gpu_hours: float | None = None  # hours of trials times the GPUs each of them holds
    max_train_flops: float | None = None  # FLOPs of all trials together
    replicates: int = 1  # trainings of each configuration, with seeds from its own on; ranked by their mean
    max_failed: float = 0.5  # the sweep stops when a larger share of its trials failed, from 8 ended ones on

    def __post_init__(self) -> None:
        require(
            self.name is None or is_name(self.name),
            "sweep.name",
            self.name,
            f"names a folder: {RULE}",
            "my-sweep",
        )
        budgets = {
            "num_trials": (self.num_trials, "16"),
            "max_hours": (self.max_hours, "8"),
            "max_gpu_hours": (self.max_gpu_hours, "100"),
            "max_train_flops": (self.max_train_flops, "1e15"),
        }
        for key, (value, example) in budgets.items():
            least = "at least 1" if key == "num_trials" else "positive"
            holds = value is None or (value >= 1 if key == "num_trials" else value > 0)
            require(holds, f"sweep.{key}", value, f"must be {least}, or null for no such limit", example)
        if all(value is None for value, _ in budgets.values()):
            raise ValueError(
                "A sweep needs a budget: sweep.num_trials, sweep.max_hours, sweep.max_gpu_hours and "
                "sweep.max_train_flops are all null. For example sweep.num_trials=16."
            )
        require(self.replicates >= 1, "sweep.replicates", self.replicates, "must be at least 1", "3")
        require(0 < self.max_failed <= 1, "sweep.max_failed", self.max_failed, "must lie in (0, 1]", "0.5")


@dataclass(kw_only=True, slots=True)
class SearchConfig:
    """How the next trial is chosen, and what for."""

    sampler: str = "tpe"  # one of SAMPLERS, or the name of a class in optuna.samplers
    options: dict[str, Any] = field(default_factory=dict)  # arguments of that class, plain values
    seed: int = 0  # of the sampler; the same seed and order give the same suggestions
    metric: str = "val/accuracy"  # a metric key of the reports; never test/*, which is shown only
    direction: Direction = Direction.maximize  # of the metric
    further_objectives: dict[str, Direction] = field(default_factory=dict)  # metric -> its direction
    constraints: dict[str, str] = field(default_factory=dict)  # metric -> "<= NUMBER" or ">= NUMBER"
    first: list[Any] = field(default_factory=list)  # trials to try first: best/NAME, or {KEY: VALUE}
    warm_start: list[str] = field(default_factory=list)  # earlier sweeps whose complete trials are known

    def __post_init__(self) -> None:
        require(
            self.sampler in SAMPLERS or re.fullmatch(r"[A-Z]\w*Sampler", self.sampler) is not None,
            "search.sampler",
            self.sampler,
            f"must be one of {', '.join(SAMPLERS)}, or a class of optuna.samplers",
            "tpe",
        )
        require(self.seed >= 0, "search.seed", self.seed, "must not be negative", "0")
        for key in (self.metric, *self.further_objectives, *self.constraints):
            require(
                not key.startswith("test/"),
                "search.metric",
                key,
                "must not be measured on test data, which would then choose",
                "val/accuracy",
            )
        require(
            self.metric not in self.further_objectives,
            "search.further_objectives",
            self.metric,
            "must not name search.metric again",
            "{model/nonzero_parameters: minimize}",
        )
        for trial in self.first:
            require(
                isinstance(trial, dict) or (isinstance(trial, str) and trial.startswith("best/")),
                "search.first",
                trial,
                "lists trials, each best/NAME or {KEY: VALUE}",
                "[best/NAME, {pruning.k1: 0.3}]",
            )


@dataclass(kw_only=True, slots=True)
class SchedulerConfig:
    """How weak trials are stopped early, or moved to better ones."""

    name: SchedulerName = SchedulerName.asha  # what stops weak trials, or moves them
    fidelity: Fidelity = Fidelity.train_flops  # trials are compared at equal values of it
    grace: float = 0.25  # fraction of a full trial before which none is stopped
    edit_grace: float = 0.05  # fraction of a full trial after a growth or pruning in which none is compared
    reduction_factor: int = 3  # at every rung the best 1 / reduction_factor go on
    num_brackets: int = 3  # kinds of trials, each with a later first rung than the one before
    interval: float = 0.1  # fraction of a full trial between two looks at the population
    quantile: float = 0.25  # this share, the worst, continues from this share, the best
    perturbation: float = 1.25  # a number that is taken over is multiplied by this or divided by it
    resample: float = 0.25  # probability that a value is drawn anew instead

    def __post_init__(self) -> None:
        fractions = {"grace": self.grace, "interval": self.interval}
        for key, value in fractions.items():
            require(0 < value <= 1, f"scheduler.{key}", value, "must lie in (0, 1]", "0.25")
        require(
            0 <= self.edit_grace < 1, "scheduler.edit_grace", self.edit_grace, "must lie in [0, 1)", "0.05"
        )
        least = {"reduction_factor": (self.reduction_factor, 2), "num_brackets": (self.num_brackets, 1)}
        for key, (number, lowest) in least.items():
            require(number >= lowest, f"scheduler.{key}", number, f"must be at least {lowest}", "3")
        require(0 < self.quantile <= 0.5, "scheduler.quantile", self.quantile, "must lie in (0, 0.5]", "0.25")
        require(self.perturbation > 1, "scheduler.perturbation", self.perturbation, "must be above 1", "1.25")
        require(0 <= self.resample <= 1, "scheduler.resample", self.resample, "must lie in [0, 1]", "0.25")


@dataclass(kw_only=True, slots=True)
class ClusterConfig:
    """Where trials run and what each of them takes."""

    address: str | None = None  # of a running Ray cluster; None: one is started on this machine
    num_concurrent: int | None = None  # trials at the same time; None: as many as fit
    cpus_per_trial: float = 1.0  # CPU cores of one trial
    gpus_per_trial: float = 0.0  # GPUs of one trial; a fraction lets several share one
    max_retries: int = 2  # times a trial may fail, or its worker die or hang, and be continued all the same
    hang_seconds: float | None = 3600.0  # a worker that reports nothing for so long is ended; None: never
    trial_seconds: float | None = None  # training, edits and evaluation, after which it is stopped

    def __post_init__(self) -> None:
        require(self.max_retries >= 0, "cluster.max_retries", self.max_retries, "must not be negative", "2")
        for key, seconds in (("hang_seconds", self.hang_seconds), ("trial_seconds", self.trial_seconds)):
            holds = seconds is None or seconds > 0
            require(holds, f"cluster.{key}", seconds, "must be positive, or null for no limit", "3600")
        require(
            self.num_concurrent is None or self.num_concurrent >= 1,
            "cluster.num_concurrent",
            self.num_concurrent,
            "must be at least 1, or null for as many as fit",
            "null",
        )
        require(
            self.cpus_per_trial > 0, "cluster.cpus_per_trial", self.cpus_per_trial, "must be positive", "1"
        )
        require(
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
    required: bool = True  # a sweep starts only where it answers; false: records are sent when it does

    def __post_init__(self) -> None:
        if self.uri is not None and urlsplit(self.uri).password is not None:
            raise ValueError(
                "tracking.uri must not hold a password: configurations are recorded. "
                "Take it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead."
            )


@dataclass(kw_only=True, slots=True)
class NotifyConfig:
    """Who is told what; a webhook's address is a credential: it is read from GROWSWEEP_WEBHOOK."""

    command: str | None = None  # run by the shell, with GROWSWEEP_EVENT and its like, JSON on its stdin
    events: list[NotifyEvent] = field(default_factory=lambda: list(NotifyEvent))  # what is told


@dataclass(kw_only=True, slots=True)
class StorageConfig:
    """Where a sweep keeps what it must not lose."""

    root: str = "runs"  # folder of optuna.db, mlflow.db and one folder per sweep
    keep_checkpoints: int | None = None  # of so many best trials when a sweep ends; None: all stay

    def __post_init__(self) -> None:
        require(
            self.keep_checkpoints is None or self.keep_checkpoints >= 1,
            "storage.keep_checkpoints",
            self.keep_checkpoints,
            "must be at least 1, or null to keep all",
            "3",
        )


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
    notify: NotifyConfig = field(default_factory=NotifyConfig)
    overrides: list[str] = field(default_factory=list)  # KEY=VALUE and GROUP=OPTION as typed, fixes too
    searches: list[str] = field(default_factory=list)  # the KEY=DISTRIBUTION of every --search
    config_dirs: list[str] = field(default_factory=list)  # folders of the user, searched first
    recorded: dict[str, Any] | None = None  # what a best file says of the trial it was exported from

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values; `from_dict` reads them back without any YAML folder."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        parts = {name: plain(values[name]) for name in PARTS}
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
        parts = {name: _build(PARTS[name], name, values[name]) for name in PARTS if name in values}
        return cls(**{**values, **parts, "trial": build_trial(values["trial"])})


# The parts of a sweep beside its trial.
PARTS: dict[str, type[Any]] = {
    "sweep": SweepSettings,
    "search": SearchConfig,
    "scheduler": SchedulerConfig,
    "cluster": ClusterConfig,
    "tracking": TrackingConfig,
    "storage": StorageConfig,
    "notify": NotifyConfig,
}


def sweep_keys() -> list[str]:
    """Every dotted key of a sweep that holds a value and is no trial key: `sweep.name`, ..."""
    return [f"{part}.{f.name}" for part, cls in PARTS.items() for f in dataclasses.fields(cls)]


def _build(cls: type[Any], part: str, values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"'{part}' is a group of keys; got the single value {values!r}.")
    try:
        return schema.build(cls, values, f"{part}.")
    except ValueError as error:
        raise ConfigError(str(error)) from error


def is_element(key: str) -> bool:
    """Whether a key names an element of one of a trial's lists, such as `model.widths.0`."""
    return _element(key) is not None


def _element(key: str) -> tuple[str, int] | None:
    """As `elements.split`, of keys of a trial only."""
    found = elements.split(key)
    return found if found is not None and found[0] in list_keys() else None


def build_trial(values: Mapping[str, Any]) -> TrialConfig:
    """TrialConfig.from_dict, its ValueError told as a ConfigError."""
    try:
        return TrialConfig.from_dict(values)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def complete_part(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a trial with the defaults of the keys that are not given.

    Raises:
        ConfigError: an unknown or missing key, or a value out of range.
    """
    part = next(f.type for f in dataclasses.fields(TrialConfig) if f.name == group)
    return dict(plain(_build(getattr(trials, str(part)), group, values)))


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Write `value` at the dotted `key` of nested dictionaries, which must hold its part.

    Lists are not changed in place: where an element is set, another list takes their place.

    Raises:
        ConfigError: the key is an element that its list does not have.
    """
    if (element := _element(key)) is not None:
        listed, index = element
        entries = get_key(values, listed)
        if not isinstance(entries, list) or index >= len(entries):
            raise ConfigError(elements.missing(key, entries))
        key, value = listed, [*entries[:index], value, *entries[index + 1 :]]
    *parts, name = key.split(".")
    for part in parts:
        values = values.setdefault("options", {}) if part == "options" else values[part]
    values[name] = value


def get_key(values: Mapping[str, Any], key: str) -> Any:
    """What nested dictionaries hold at a dotted key; None for an element that its list does not have."""
    if (element := _element(key)) is not None:
        entries = get_key(values, element[0])
        return entries[element[1]] if isinstance(entries, list) and element[1] < len(entries) else None
    *parts, name = key.split(".")
    for part in parts:
        values = values[part]
    # A method's own options are there where they are given.
    return values.get(name) if parts[-1:] == ["options"] else values[name]
