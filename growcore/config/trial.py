"""What one trial is: plain dataclasses with every range check; no torch.

Each field states its unit. Checks that need two fields of one part stand in that part, checks across
parts in `TrialConfig`. Every error states the rule, the values and a fix, and names the dotted key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from growcore.config import registry
from growcore.config.choices import (
    Activation,
    DensityAllocation,
    DrawnWeights,
    GrowthWhere,
    Initialization,
    LearningRateSchedule,
    Normalization,
    OptimizerName,
    Preflight,
    PruningScope,
    ScheduleShape,
    Strength,
    UpdateNormalization,
)
from growcore.config.schema import build, keys, lists, plain, require

# Of the data sets that torchvision keeps in a folder of their own under data.root.
DATA_FOLDERS = {
    "fashion_mnist": "FashionMNIST",
    "mnist": "MNIST",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """A data set, its split and its augmentation."""

    name: str  # of a built-in data set, or of one of your own
    root: str = "data"  # folder in which torchvision keeps the data set
    download: bool = False  # whether a missing data set may be downloaded
    num_train: int | None = None  # training images used; None: all that the split leaves
    val_fraction: float = 0.15  # of the training part, held out for validation
    split_seed: int = 0  # fixes which images are train, validation and test
    crop_padding: int = 0  # pixels of zero padding before a random crop; 0: no crop
    flip: bool = False  # whether images are flipped left-right at random

    def __post_init__(self) -> None:
        require(
            0 < self.val_fraction < 1, "data.val_fraction", self.val_fraction, "must lie in (0, 1)", "0.15"
        )
        require(
            self.num_train is None or self.num_train >= 1,
            "data.num_train",
            self.num_train,
            "must be at least 1, or null for all",
            "null",
        )
        require(self.crop_padding >= 0, "data.crop_padding", self.crop_padding, "must not be negative", "0")


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """A network before any growth."""

    name: str  # of a built-in family, or of a network of your own
    widths: list[int]  # neurons (channels) of each hidden layer at the start
    activation: Activation = Activation.relu  # nonlinearity after every hidden layer
    normalization: Normalization = Normalization.none  # between a hidden layer and its nonlinearity
    kernel_size: int = 3  # side of every convolution kernel, odd, in pixels
    downsample_every: int = 2  # every so many convolutions one has stride 2; 0: none
    blocks: list[int] = field(default_factory=list)  # of each stage: residual blocks, or convolutions
    hidden_fraction: float = 1.0  # channels inside a block, of its stage's width; 0: grown from nothing
    init: Initialization = Initialization.kaiming_uniform  # law of the initial and restarted weights
    init_gain: float = 1.0  # factor on the standard deviation of the initial weights

    def __post_init__(self) -> None:
        require(
            len(self.widths) >= 1 and all(w >= 1 for w in self.widths),
            "model.widths",
            self.widths,
            "needs at least one hidden layer, each of at least 1 neuron",
            "[8,8]",
        )
        require(
            self.kernel_size >= 1 and self.kernel_size % 2 == 1,
            "model.kernel_size",
            self.kernel_size,
            "must be odd, so that a kernel has a centre",
            "3",
        )
        require(
            all(number >= 1 for number in self.blocks),
            "model.blocks",
            self.blocks,
            "counts the blocks of each stage, at least 1",
            "[2,2,2,2]",
        )
        require(
            0 <= self.hidden_fraction <= 1,
            "model.hidden_fraction",
            self.hidden_fraction,
            "is a fraction in [0, 1] of a stage's width",
            "0.5",
        )
        require(
            self.downsample_every >= 0,
            "model.downsample_every",
            self.downsample_every,
            "must not be negative",
            "2",
        )
        require(
            self.init_gain > 0 and math.isfinite(self.init_gain),
            "model.init_gain",
            self.init_gain,
            "must be positive",
            "1.0",
        )


@dataclass(kw_only=True, slots=True)
class GrowthConfig:
    """When, where, how many and by which method a network gains neurons."""

    method: str = "none"  # of growcore.growth.methods, or of your own: how new neurons get their weights
    where: GrowthWhere = GrowthWhere.all  # which of the growable layers grow at one growth
    start_epoch: int = 1  # epochs before the first growth
    every_epochs: int = 2  # epochs between growths
    end_fraction: float = 0.75  # of a trial's epochs; no growth after, so that new neurons can settle
    num_neurons: int = 4  # neurons a layer gains at one growth, at most
    # A layer grows no wider than this; a list holds one for each growable layer, from input to output; None:
    # no limit.
    max_width: int | list[int | None] | None = None
    statistics_batches: int = 4  # training batches the statistics are gathered on
    numerical_threshold: float = 1e-6  # eigenvalues of S below it (relative: to the largest) are dropped
    statistical_threshold: float = 1e-3  # singular values below it (relative: to the largest) are dropped
    relative_thresholds: bool = True  # thresholds are fractions of the largest value, not absolute
    relative_ridge: float = 0.0  # added to the diagonal of S, in units of its mean diagonal entry
    init: DrawnWeights = DrawnWeights.copy_uniform  # law of new weights that are drawn
    # How a proposal is scaled before the line search.
    normalization: UpdateNormalization = UpdateNormalization.legacy_normalization
    line_search_batches: int = 2  # further training batches on which the scaling factor is chosen
    max_scaling_factor: float = 1.0  # largest scaling factor the line search tries
    options: dict[str, Any] = field(default_factory=dict)  # settings of a method of your own, by name

    def __post_init__(self) -> None:
        for name, low in (
            ("start_epoch", 0),
            ("every_epochs", 1),
            ("num_neurons", 1),
            ("statistics_batches", 1),
            ("line_search_batches", 1),
        ):
            value = getattr(self, name)
            require(value >= low, f"growth.{name}", value, f"must be at least {low}", str(low))
        limits = self.max_width if isinstance(self.max_width, list) else [self.max_width]
        require(
            len(limits) >= 1 and all(limit is None or limit >= 1 for limit in limits),
            "growth.max_width",
            self.max_width,
            "must be at least 1, or null for no limit; a list holds one for each growable layer",
            "64",
        )
        for name in ("numerical_threshold", "statistical_threshold"):
            value = getattr(self, name)
            require(
                value >= 0 and math.isfinite(value),
                f"growth.{name}",
                value,
                "must be finite and not negative",
                "1e-3",
            )
            require(
                not self.relative_thresholds or value <= 1,
                f"growth.{name}",
                value,
                "is a fraction of the largest value, at most 1, while growth.relative_thresholds is on",
                "1e-3",
            )
        require(
            self.relative_ridge >= 0 and math.isfinite(self.relative_ridge),
            "growth.relative_ridge",
            self.relative_ridge,
            "must be finite and not negative",
            "0.0",
        )
        _check_fraction("growth.end_fraction", self.end_fraction)
        require(
            self.max_scaling_factor > 0 and math.isfinite(self.max_scaling_factor),
            "growth.max_scaling_factor",
            self.max_scaling_factor,
            "must be positive",
            "1.0",
        )


@dataclass(kw_only=True, slots=True)
class PruningConfig:
    """When connections are judged, by what, and how many stay or restart."""

    method: str = "none"  # of growcore.sparse.methods, or of your own: what judges and changes connections
    strength: Strength = Strength.coactivation  # what connections are judged by
    scope: PruningScope = PruningScope.layer  # connections ranked together
    k1: float = 0.5  # fraction of a scope's connections that stays
    k2: float = 0.7  # fraction that is alive afterwards; the k2 - k1 between restart
    density: float = 0.2  # share of connections alive, at last; kept while the network grows
    allocation: DensityAllocation = DensityAllocation.erk  # of that density over layers
    fraction: float = 0.3  # of the connections alive, exchanged at a time
    # From the first edit to the last what is exchanged falls to 0, and what is pruned rises from nothing;
    # with constant it is all of it each time.
    schedule: ScheduleShape = ScheduleShape.constant
    activity_threshold: float = 0.5  # active means sigmoid(value) > threshold
    update_interval: int = 20  # training steps between two measurements of strength
    start_epoch: int = 1  # epochs before the first progression
    every_epochs: int = 3  # epochs between progressions
    end_fraction: float = 0.75  # of a trial's epochs; no progression after, so that weights can settle
    # At the same times, under every method, none too: hidden neurons go that gave 0 on all images of
    # growth.statistics_batches training batches.
    remove_dead: bool = False
    options: dict[str, Any] = field(default_factory=dict)  # settings of a method of your own, by name

    def __post_init__(self) -> None:
        if not 0 <= self.k1 <= 1 or not 0 <= self.k2 <= 1:
            raise ValueError(
                f"pruning.k1 and pruning.k2 are fractions in [0, 1] of a scope's connections; "
                f"got k1={self.k1}, k2={self.k2}. Set both between 0 and 1, for example pruning.k1=0.5."
            )
        if self.k1 > self.k2:
            raise ValueError(
                f"pruning.k1 must not exceed pruning.k2: the strongest k1 stay, the next k2 - k1 restart; "
                f"got k1={self.k1}, k2={self.k2}. To restart none, set pruning.k2={self.k1}."
            )
        require(0 < self.density <= 1, "pruning.density", self.density, "must lie in (0, 1]", "0.2")
        require(0 <= self.fraction <= 1, "pruning.fraction", self.fraction, "must lie in [0, 1]", "0.3")
        require(
            0.5 <= self.activity_threshold < 1,
            "pruning.activity_threshold",
            self.activity_threshold,
            "must lie in [0.5, 1): active means sigmoid(value) > threshold and padding is never active",
            "0.5",
        )
        for name, low in (("update_interval", 1), ("start_epoch", 0), ("every_epochs", 1)):
            value = getattr(self, name)
            require(value >= low, f"pruning.{name}", value, f"must be at least {low}", str(low))
        _check_fraction("pruning.end_fraction", self.end_fraction)


@dataclass(kw_only=True, slots=True)
class OptimizerConfig:
    """The optimizer of the weights."""

    name: OptimizerName = OptimizerName.sgd  # the rule by which weights move
    lr: float = 0.05  # learning rate at the start
    momentum: float = 0.9  # of the gradient's running mean; the beta1 of adam and adamw
    weight_decay: float = 0.0  # of the weights, added to the gradient; by adamw taken off them, times lr
    schedule: LearningRateSchedule = LearningRateSchedule.cosine  # of the learning rate over the epochs

    def __post_init__(self) -> None:
        require(self.lr > 0 and math.isfinite(self.lr), "optimizer.lr", self.lr, "must be positive", "0.05")
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "must lie in [0, 1)", "0.9")
        require(
            self.weight_decay >= 0,
            "optimizer.weight_decay",
            self.weight_decay,
            "must not be negative",
            "0",
        )


@dataclass(kw_only=True, slots=True)
class TrainingConfig:
    """How long and in which portions a network trains."""

    num_epochs: int = 20  # epochs of a trial that is not stopped early
    batch_size: int = 64  # images a step
    report_every_epochs: int = 1  # epochs between two evaluations
    num_threads: int = 1  # torch threads of one trial on the CPU
    patience: int = 0  # reports in a row without a better validation accuracy that end training; 0: never
    min_improvement: float = 0.0  # accuracy is better when it is higher by more than this, in [0, 1)

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "report_every_epochs", "num_threads"):
            value = getattr(self, name)
            require(value >= 1, f"training.{name}", value, "must be at least 1", "1")
        require(self.patience >= 0, "training.patience", self.patience, "must not be negative", "0")
        gain = self.min_improvement
        require(0 <= gain < 1, "training.min_improvement", gain, "must lie in [0, 1)", "0.001")


@dataclass(kw_only=True, slots=True)
class TrialConfig:
    """Everything that decides one trial; equal configurations give equal trials on one device."""

    data: DataConfig  # what is learnt from
    model: ModelConfig  # the network at the start
    growth: GrowthConfig = field(default_factory=GrowthConfig)  # what it gains
    pruning: PruningConfig = field(default_factory=PruningConfig)  # what it loses
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # how its weights move
    training: TrainingConfig = field(default_factory=TrainingConfig)  # how long
    seed: int = 0  # of initial weights, batch order, augmentation and restarts
    imports: list[str] = field(default_factory=list)  # modules with data sets, networks, methods, metrics
    preflight: Preflight = Preflight.warn  # what becomes of a network that will not carry a signal

    def __post_init__(self) -> None:
        for kind, name in (
            (registry.DATA_SETS, self.data.name),
            (registry.MODELS, self.model.name),
            (registry.GROWTH_METHODS, self.growth.method),
            (registry.PRUNING_METHODS, self.pruning.method),
        ):
            registry.check_name(kind, name, self.imports)
        self._check_room_to_grow()

    def _check_room_to_grow(self) -> None:
        """Every layer starts within its limit, as far as its width is known without building the network."""
        limits = self.growth.max_width
        if self.growth.method == "none" or limits is None:
            return
        family = registry.built_in(registry.MODELS).get(self.model.name)
        widths: list[int] | None = None if family is None else family.growable_widths(self.model)
        given = f"got growth.max_width={limits}, model.widths={self.model.widths}"
        if not isinstance(limits, list):
            if (widest := max(widths or self.model.widths)) > limits:
                raise ValueError(
                    f"growth.max_width must be at least the widest layer at the start, {widest}; {given}. "
                    f"Set growth.max_width={widest} or more, or null for no limit."
                )
            return
        if widths is None:
            return  # the network knows, when it is built
        if len(limits) != len(widths):
            raise ValueError(
                f"growth.max_width holds {len(limits)} limits, and the network has {len(widths)} growable "
                f"layers, which start {widths} wide; {given}. Give one for each, null for no limit, or one "
                f"number for all."
            )
        for index, (limit, width) in enumerate(zip(limits, widths, strict=True)):
            if limit is not None and width > limit:
                raise ValueError(
                    f"growth.max_width.{index} must be at least {width}, the width of growable layer {index} "
                    f"at the start; {given}. Set growth.max_width.{index}={width} or more, or null for no "
                    f"limit."
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, lists, strings and numbers; `from_dict` reads them back."""
        return plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialConfig:
        """Build and check a configuration from plain values.

        Raises:
            ValueError: an unknown or missing key, or a value out of range; the message names the key.
        """
        return build(cls, values)


def missing_data(config: DataConfig) -> str | None:
    """Why a built-in data set cannot be read and how to mend it; None where its files may be there."""
    folder = DATA_FOLDERS.get(config.name)
    if folder is None or config.download or (Path(config.root) / folder).is_dir():
        return None
    return (
        f"data.name={config.name} was looked for in {Path(config.root).resolve()} and not found: there is no "
        f"folder {folder}. Set data.root to the folder that holds it, or allow the download by "
        f"data.download=true."
    )


def list_keys() -> dict[str, bool]:
    """The trial keys whose elements are keys too, as `model.widths.0`; whether one may hold no list."""
    return lists(TrialConfig)


def trial_keys() -> list[str]:
    """Every dotted key of a TrialConfig that holds a value, in order: `data.name`, ..., `preflight`."""
    return keys(TrialConfig)


def _check_fraction(key: str, value: float) -> None:
    require(0 <= value <= 1, key, value, "is a fraction in [0, 1] of training.num_epochs", "0.75")
