"""The named alternatives of a trial's configuration, each with what it means."""

from __future__ import annotations

from enum import StrEnum


class Activation(StrEnum):
    """Nonlinearity after every hidden layer."""

    relu = "relu"
    leaky_relu = "leaky_relu"
    tanh = "tanh"
    gelu = "gelu"
    sigmoid = "sigmoid"
    identity = "identity"


class Normalization(StrEnum):
    """Normalisation between a hidden layer and its nonlinearity."""

    none = "none"
    batch = "batch"


class Initialization(StrEnum):
    """Law of the initial weights, of restarted connections too."""

    kaiming_uniform = "kaiming_uniform"
    kaiming_normal = "kaiming_normal"
    xavier_uniform = "xavier_uniform"
    xavier_normal = "xavier_normal"
    orthogonal = "orthogonal"
    critical = "critical"
    uniform = "uniform"


class DrawnWeights(StrEnum):
    """Law of new neurons' weights where they are drawn and not solved for."""

    copy_uniform = "copy_uniform"  # uniform, of the deviation of the weights beside it
    copy_normal = "copy_normal"
    kaiming = "kaiming"  # normal, of variance 2 / fan_in


class GrowthWhere(StrEnum):
    """Which of the growable layers grow at one growth event."""

    all = "all"
    round_robin = "round_robin"
    largest_improvement = "largest_improvement"
    largest_improvement_per_flop = "largest_improvement_per_flop"


class UpdateNormalization(StrEnum):
    """How a TINY proposal is scaled before the line search."""

    none = "none"
    legacy_normalization = "legacy_normalization"
    equalize_second_layer = "equalize_second_layer"
    equalize_extensions = "equalize_extensions"


class Strength(StrEnum):
    """What the Hebbian methods judge a connection by."""

    coactivation = "coactivation"
    correlation = "correlation"
    pooled_correlation = "pooled_correlation"
    magnitude = "magnitude"
    gradient = "gradient"
    magnitude_x_coactivation = "magnitude_x_coactivation"


class PruningScope(StrEnum):
    """The set of connections that is ranked together by the methods with k1 and k2."""

    filter = "filter"
    channel = "channel"
    layer = "layer"
    all_layers = "global"


class DensityAllocation(StrEnum):
    """How `density` is shared out over layers."""

    uniform = "uniform"
    erk = "erk"  # Erdos-Renyi-Kernel: small layers stay denser


class ScheduleShape(StrEnum):
    """How a fraction moves from the first edit to the last."""

    constant = "constant"
    linear = "linear"
    cubic = "cubic"
    cosine = "cosine"


class OptimizerName(StrEnum):
    """Which torch optimizer trains the weights."""

    sgd = "sgd"
    adam = "adam"
    adamw = "adamw"


class LearningRateSchedule(StrEnum):
    """How the learning rate moves over a trial's epochs."""

    constant = "constant"
    cosine = "cosine"


class Preflight(StrEnum):
    """What happens when the untrained network will not carry a signal."""

    warn = "warn"  # findings are told
    fail = "fail"  # ... and hopeless ones end the trial before its first step
    off = "off"  # nothing is measured
