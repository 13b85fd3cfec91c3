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


class GrowthMethod(StrEnum):
    """How new neurons get their weights."""

    none = "none"
    tiny = "tiny"  # the optimum of the first-order decrease, and the layer's own optimal step
    gradmax = "gradmax"  # zero weights in; out of them those that give the largest gradient
    random = "random"  # drawn weights in and out
    zeros = "zeros"  # drawn weights in, zero weights out: the function stays as it is
    variance_transfer = "variance_transfer"  # drawn, and all of the reader's weights shrunk to keep variance


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


class PruningMethod(StrEnum):
    """What judges and changes connections while a network trains."""

    none = "none"
    hebbian = "hebbian"  # the strongest k1 stay, those up to k2 restart, the rest go
    hebbian_exchange = "hebbian_exchange"  # the weakest go, as many of the strongest inactive ones come
    set = "set"  # the smallest weights go, as many come at random
    rigl = "rigl"  # the smallest weights go, as many come by the gradient they would get
    gradual = "gradual"  # the smallest weights go until `density` is reached; none comes back
    random = "random"  # as hebbian, with random strengths
    static = "static"  # random connections at `density` from the start, never changed


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
