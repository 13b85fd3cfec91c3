"""Population-based training: who goes on from whom, and under which values. Pure decisions.

The population is the sweep's trials. At every interval of a full trial a member of the worst part goes on
from the checkpoint of one of the best part, under that one's configuration with some values changed. A
checkpoint carries its architecture, so members of different sizes can take over from each other.

[Jaderberg2017] Population Based Training of Neural Networks, arXiv:1711.09846.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.config import Direction, SchedulerConfig, SchedulerName, SweepConfig
from sweeps.distributions import Choice, Fixed, Numeric
from sweeps.fidelity import ROUNDING
from sweeps.schema import ConfigError
from sweeps.space import Dimension, SearchSpace
from sweeps.suggesting import Random

# What may change between two epochs. The rest shapes the network or the optimizer's state (model.*,
# growth.method, pruning.method, optimizer.name), is spent when training begins (pruning.density, seed,
# preflight, start epochs) or makes trials incomparable (data.*, training.num_epochs).
MUTABLE = frozenset(
    {
        "optimizer.lr",
        "optimizer.momentum",
        "optimizer.weight_decay",
        "training.batch_size",
        "growth.where",
        "growth.every_epochs",
        "growth.end_fraction",
        "growth.num_neurons",
        "growth.max_width",
        "growth.statistics_batches",
        "growth.numerical_threshold",
        "growth.statistical_threshold",
        "growth.relative_ridge",
        "growth.line_search_batches",
        "growth.max_scaling_factor",
        "pruning.scope",
        "pruning.k1",
        "pruning.k2",
        "pruning.fraction",
        "pruning.activity_threshold",
        "pruning.update_interval",
        "pruning.every_epochs",
        "pruning.end_fraction",
    }
)

Values = dict[str, Any]  # searched key or group -> value


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """What is known of one trial."""

    number: int
    curve: Sequence[tuple[float, float]]  # (fraction of a full trial, value of the metric), as reported
    can_give: bool  # whether it has a checkpoint from which something is left to train


def choose_donor(
    asker: Member,
    members: Sequence[Member],
    settings: SchedulerConfig,
    direction: Direction,
    draw: random.Random,
) -> int | None:
    """From whom a member goes on; None: it goes on as it is.

    Members are compared by their newest value at or before the fraction that the asker has reached.

    Args:
        asker: has reported.
        members: all of them, the asker too; those without a report by then are left out.
        settings: `quantile`; of fewer than 1 / quantile members none is the worst part.
        direction: whether a larger value is better.
        draw: chooses among the donors.
    """
    reached = asker.curve[-1][0] * ROUNDING
    sign = 1.0 if direction is Direction.maximize else -1.0
    scores = {}
    for member in members:
        values = [value for fraction, value in member.curve if fraction <= reached]
        if values:
            scores[member.number] = -math.inf if math.isnan(values[-1]) else sign * values[-1]
    ranked = sorted(scores, key=lambda number: (-scores[number], number))
    num = math.floor(len(ranked) * settings.quantile * ROUNDING)
    if num == 0 or asker.number not in ranked[-num:]:
        return None
    able = {member.number for member in members if member.can_give}
    donors = [n for n in ranked[:num] if n in able and scores[n] > scores[asker.number]]
    return draw.choice(donors) if donors else None


def vary(space: SearchSpace, values: Values, settings: SchedulerConfig, draw: random.Random) -> Values:
    """A donor's values with its mutable keys changed.

    A number is multiplied or divided by `perturbation`, by 1 at least where it is whole; of a list of
    choices the next or the one before is taken; or, with probability `resample`, a value is drawn anew.
    What comes out keeps the bounds of the space, those that refer to other keys too.
    """

    def take(dimension: Dimension, lookup: Callable[[str], Any]) -> Any:
        distribution = dimension.distribution
        if isinstance(distribution, Fixed):
            return distribution.value
        is_new = dimension.key not in values  # a condition holds now that did not
        if is_new or (dimension.key in MUTABLE and draw.random() < settings.resample):
            return distribution.suggest(Random(draw.getrandbits(32)), lookup)
        value = values[dimension.key]
        if dimension.key not in MUTABLE:
            return value
        if isinstance(distribution, Choice):
            return _neighbour(distribution, value, draw)
        return _scaled(distribution, value, distribution.bounds(lookup), settings.perturbation, draw)

    return space.walk(take)[0]


def _neighbour(choice: Choice, value: Any, draw: random.Random) -> Any:
    index = choice.values.index(value)
    near = [i for i in (index - 1, index + 1) if 0 <= i < len(choice.values)]
    return choice.values[draw.choice(near)] if near else value


def _scaled(
    numeric: Numeric, value: float, bounds: tuple[float, float], factor: float, draw: random.Random
) -> float | int:
    low, high = bounds
    up = draw.random() < 0.5
    new = value * factor if up else value / factor
    step = numeric.step or (1 if numeric.is_integer and not numeric.log else None)
    if step is not None:
        new = low + round((new - low) / step) * step
        new = new if abs(new - value) > step / 2 else value + (step if up else -step)
    elif numeric.is_integer:
        new = round(new) if round(new) != value else value + (1 if up else -1)
    new = min(max(new, low), high)
    return round(new) if numeric.is_integer else new


def check(config: SweepConfig, space: SearchSpace) -> None:
    """Refuse what a population cannot do; says nothing under another scheduler.

    Raises:
        ConfigError: the rule, the value and the fix.
    """
    if config.scheduler.name is SchedulerName.pbt:
        for problem in _problems(config, space):
            raise ConfigError(f"scheduler=pbt {problem}")


def _problems(config: SweepConfig, space: SearchSpace) -> Sequence[str]:
    search, num, quantile = config.search, config.sweep.num_trials, config.scheduler.quantile
    found = []
    searched = [d.key for d in space.dimensions if not isinstance(d.distribution, Fixed)]
    if not any(key in MUTABLE for key in searched):
        found.append(
            f"needs a searched key that can change while a network trains; searched are "
            f"{', '.join(searched)}. Add one, for example --search "
            "optimizer.lr='{float: [1e-3, 1], log: true}'."
        )
    if num is None:
        found.append("needs sweep.num_trials, the size of its population; got null. Set sweep.num_trials=16.")
    elif num * quantile * ROUNDING < 1:
        found.append(
            f"needs a population in which scheduler.quantile={quantile:g} is one trial at least; got "
            f"sweep.num_trials={num}. Set sweep.num_trials={math.ceil(1 / quantile)} or more."
        )
    if config.sweep.replicates > 1:
        found.append(
            f"cannot train replicates, as members go on from each other's checkpoints; got "
            f"sweep.replicates={config.sweep.replicates}. Set sweep.replicates=1, or scheduler=none."
        )
    if search.sampler == "grid":
        found.append("leaves the grid when it changes values. Choose search=random, or scheduler=none.")
    if search.further_objectives or search.constraints:
        found.append(
            "compares members by one metric; got search.further_objectives or search.constraints. "
            "Take them out, or choose scheduler=none."
        )
    return found
