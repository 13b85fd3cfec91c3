"""What a pruning method is: a value that says which keys act, what is observed, what becomes of connections.

[Mocanu2018] Scalable training of artificial neural networks with adaptive sparse connectivity, Nature
Communications 9, arXiv:1707.04780. [Evci2020] Rigging the Lottery, ICML 2020, arXiv:1911.11134.
[Zhu2017] To prune, or not to prune, arXiv:1710.01878.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from growcore.config.acting import Keys, Option, acting
from growcore.sparse.units import EVERY_UNIT, Units

if TYPE_CHECKING:  # tables of methods are read where torch is not wanted
    import torch
    from torch import Tensor

    from growcore.config import PruningConfig
    from growcore.config.timing import Progress
    from growcore.sparse.selection import PruneMask

# The keys of methods that change connections while a network trains.
TIMES = acting("start_epoch", "every_epochs", "end_fraction")
# Those of methods that leave a share of all connections alive.
DENSITY = acting("density", "allocation")
# Those of methods that judge connections by a strength the layers measure.
STRENGTH = (
    acting("strength")
    | acting("activity_threshold", strength=("coactivation", "magnitude_x_coactivation"))
    | acting(
        "update_interval",
        strength=(
            "coactivation",
            "correlation",
            "pooled_correlation",
            "gradient",
            "magnitude_x_coactivation",
        ),
    )
)


# Keys that are settled when training begins: a population does not change them under way.
SETTLED = frozenset({"strength", "density", "allocation", "schedule", "start_epoch"})


@dataclass(frozen=True, slots=True, eq=False)
class PruneObservation:
    """What is known of the connections of one sparse layer; all tensors have the weight's shape."""

    layer: str
    strengths: Tensor  # of every connection, pruned ones included
    weight: Tensor  # 0 where pruned
    alive: Tensor  # bool
    grown: Tensor | None = None  # bool, connections of neurons gained just now; None: no neurons were
    units: Units = EVERY_UNIT  # what the connections join: rules leave each unit one, as far as they go


class Decision(NamedTuple):
    """What becomes of the connections of every layer, in the order observed, and by which rule."""

    masks: list[PruneMask]
    rule: str  # for people: "smallest 0.3 exchanged for random connections"


Decide = Callable[
    ["Sequence[PruneObservation]", "PruningConfig", "Progress", "torch.Generator | None"], Decision
]


Allot = Callable[
    ["Sequence[PruneObservation]", "PruningConfig", "Progress", "torch.Generator | None"], "Decision | None"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class PruningMethod:
    """One way of judging and changing connections; a module's `PRUNING_METHODS` names those of your own.

    `decide(observations, config, progress, generator)` sees all sparse layers from input to output, draws
    from the generator alone, and changes nothing.
    """

    meaning: str  # a line, for tables
    keys: Keys = field(default_factory=dict)  # of PruningConfig, that act under it
    options: Mapping[str, Option] = field(default_factory=dict)  # its own settings, `pruning.options.NAME`
    settled: frozenset[str] = SETTLED  # of its keys and options, those that cannot change between two epochs
    # What layers measure while they train, a name in growcore.sparse.strength.STRENGTHS; `magnitude` and
    # `random` cost nothing.
    strength: Callable[[PruningConfig], str] = lambda config: "magnitude"
    makes_sparse: bool = True  # whether layers keep track of their connections at all
    starts_sparse: bool = False  # whether connections are random ones at `density` from the start
    decide: Decide | None = None  # None: connections are never changed
    # After neurons came or went: back to the density asked for; None: whatever came is alive. It is asked
    # nothing where no layer has changed, and returns None where nothing is to be done.
    allot: Allot | None = None
