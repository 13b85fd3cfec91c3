"""What a growth method is: a value that says which keys act, what is observed, and what new neurons weigh.

One description serves pairs and merges: both are a `Consumer`, which holds its new neurons until they are
applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from growcore.config.acting import Keys, Option, acting

if TYPE_CHECKING:  # tables of methods are read where torch is not wanted
    from growcore.config import GrowthConfig
    from growcore.growth.merge import Consumer

# The keys of every method that grows: when, where, how many, and how far.
EVENTS = acting(
    "where",
    "start_epoch",
    "every_epochs",
    "end_fraction",
    "num_neurons",
    "max_width",
    "line_search_batches",
    "max_scaling_factor",
)
# Those of methods that look at statistics of training batches.
STATISTICS = acting("statistics_batches")
# Those of methods that draw weights.
DRAWN = acting("init")

# Keys that are settled when training begins: a population does not change them under way.
SETTLED = frozenset({"start_epoch", "init", "normalization", "relative_thresholds"})

# Makes so many new neurons of a consumer; they stay with it until they are proposed.
Create = Callable[["Consumer", "GrowthConfig", int], None]
# Changes new neurons that have their signs, such as their scale.
Finish = Callable[["Consumer", "GrowthConfig"], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthMethod:
    """One way of giving new neurons their weights; a module's `GROWTH_METHODS` names those of your own.

    `create(consumer, config, number)` makes the new neurons by one of the consumer's own ways
    (`compute_optimal_updates`, `compute_gradmax_updates`, `create_layer_extensions`), or by setting the
    extensions of `consumer.producers` and `consumer.readers`. What it draws comes from torch's own
    generator; the network it leaves as it is. Neurons that were solved for are then turned to the better of
    their two signs, and those that do not lower the loss to first order are dropped; `finish` comes after.
    """

    meaning: str  # a line, for tables
    keys: Keys = field(default_factory=lambda: EVENTS)  # of GrowthConfig, that act under it
    options: Mapping[str, Option] = field(default_factory=dict)  # its own settings, `growth.options.NAME`
    settled: frozenset[str] = SETTLED  # of its keys and options, those that cannot change between two epochs
    create: Create | None = None  # None: nothing ever grows
    finish: Finish | None = None  # None: nothing is left to do
    needs_statistics: bool = False  # whether consumers gather statistics on training batches first
    draws: bool = True  # whether `create` draws from torch's generator, which is then seeded for it
    # How many scaling factors are tried, each half of the one before; with one, growth is never refused.
    num_scaling_factors: int = 1
    # Whether the predicted decrease is what applying the new neurons brings at once, to first order.
    promises: bool = False
